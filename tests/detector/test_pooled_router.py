"""A detector whose products share the router's covariance."""

from pathlib import Path

import pytest
import torch
from run.small_runs import run

from moleflow_fast import Detector
from moleflow_fast.config import AblationConfig
from moleflow_fast.run.session import RunResult


@pytest.fixture(scope="module")
def pooled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    ablation = AblationConfig(lambda_logdet=1e-5, router_covariance="pooled")
    return run(data, tmp_path_factory.mktemp("logs"), ablation=ablation)


@pytest.fixture(scope="module")
def detector(pooled: RunResult) -> Detector:
    return Detector.load(pooled.directory.path)


def test_limits_rest_on_held_out_distances(detector: Detector) -> None:
    """Of six training images the distance to their own mean says little: the limit is what it would be without each."""
    used = detector._run
    router = used.moleflow.router
    for task, calibration in detector.calibration.tasks.items():
        name = calibration.class_names[0]
        training = used.features.training([name]).image_features
        test = used.features.test_class(name, task)
        fitted = router.distances(training)[:, task]
        held_out = router.distances(test.source.image_features[test.labels == 0])[:, task]
        corrected = router.held_out_distances(task, fitted)
        assert corrected.max() > 1.2 * fitted.max()
        assert calibration.largest_distance == pytest.approx(float(torch.cat([corrected, held_out]).max()))
        assert calibration.compares_distances


def test_no_own_image_is_unknown(detector: Detector, data: Path) -> None:
    for task, calibration in detector.calibration.tasks.items():
        own = data / calibration.class_names[0]
        for results in (detector.predict(own / "train"), detector.predict(own / "test" / "good")):
            assert {r.task_id for r in results} == {task} and "unknown" not in {r.label for r in results}


def test_labels_compare_the_nearest_two(detector: Detector, data: Path) -> None:
    for result in detector.predict(data):
        nearest, runner_up = sorted(result.distances.values())[:2]
        assert result.task_id is not None
        known = detector.calibration.tasks[result.task_id].knows(nearest, runner_up)
        assert known == (result.label != "unknown")


def test_rotated_training_images_are_not_corrected(data: Path, tmp_path: Path) -> None:
    """The prototype has seen other pixels than those whose distances are measured."""
    ablation = AblationConfig(lambda_logdet=1e-5, router_covariance="pooled")
    result = run(data, tmp_path, ablation=ablation, use_rotation_aug=True, num_epochs=1)
    detector = Detector.load(result.directory.path)
    used = detector._run
    for task, calibration in detector.calibration.tasks.items():
        test = used.features.test_class(calibration.class_names[0], task)
        training = used.features.training([test.name], rotated=False).image_features
        own = torch.cat([training, test.source.image_features[test.labels == 0]])
        expected = float(used.moleflow.router.distances(own)[:, task].max())
        assert calibration.largest_distance == pytest.approx(expected)
