"""A detector sees what the run's evaluation saw."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run.small_runs import CLASSES, run

from moleflow_fast import Detector
from moleflow_fast.detector.calibration import CalibrationError
from moleflow_fast.detector.calibration_file import read_calibration
from moleflow_fast.detector.result import Result
from moleflow_fast.detector.trained_run import TrainedRun
from moleflow_fast.errors import UserError
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.session import RunResult
from moleflow_fast.trainer.checkpoint import CheckpointError


def test_scores_maps_and_routes_are_those_of_the_evaluation(finished: RunResult, detector: Detector) -> None:
    run = TrainedRun(finished.directory, "cpu", None).run
    for test in run.features.tests_until(2):
        results = detector.predict([sample.path for sample in run.images.test(test.name).samples])
        ids = run.scorer.route(test)
        maps = run.scorer.patch_maps(test, ids)
        assert [r.task_id for r in results] == ids.tolist()
        assert len(ids.unique()) == 1  # so that the batches were the same, and the bits are
        assert [r.score for r in results] == image_scores(maps, run.moleflow.config).tolist()
        assert np.array_equal(np.stack([r.patch_map for r in results]), maps.numpy())
        assert np.array_equal(np.stack([r.pixel_map for r in results]), run.scorer.pixel_maps(maps).numpy())
        # Their products are of other shapes here, which a library may add up in another order.
        distances = run.moleflow.router.distances(test.source.image_features).numpy()
        np.testing.assert_allclose([list(r.distances.values()) for r in results], distances, rtol=1e-5)


def test_batches_of_several_products_score_alike(data: Path, detector: Detector) -> None:
    alone = {r.source: r for name in CLASSES for r in detector.predict(data / name / "test")}
    paths = sorted(alone, key=lambda p: (p.name, p.parent.name, str(p)))
    mixed = detector.predict(paths)
    assert [r.source for r in mixed] == paths
    for result in mixed:
        expected = alone[result.source]
        assert (result.task_id, result.label) == (expected.task_id, expected.label)
        assert result.score == pytest.approx(expected.score, rel=1e-5)
        np.testing.assert_allclose(result.patch_map, expected.patch_map, rtol=1e-4)


def test_a_result_has_everything(detector: Detector, photo: Path) -> None:
    (result,) = detector.predict(photo)
    assert result.source == photo and result.error is None
    assert result.class_names == ("wood",) and result.task_id == 2
    assert result.distance == result.distances[2] == min(result.distances.values())
    assert result.margin == sorted(result.distances.values())[1] - result.distance > 0
    assert 0 < result.calibrated < 1
    assert result.size == (64, 64) and result.anomaly_map.shape == (64, 64)
    assert result.label == "normal"


def test_the_threshold_decides(finished: RunResult, data: Path, detector: Detector) -> None:
    path = finished.directory.path
    least, most = (Detector.load(path, threshold=t).predict(data / "wood" / "test" / "good") for t in (0, 1))
    assert {r.label for r in least} == {"defective"}
    assert {r.label for r in most} == {"normal"}
    at_threshold = Detector(detector._run, detector.calibration, threshold=most[0].calibrated)
    assert at_threshold.predict(most[0].source)[0].label == "normal"  # only scores above it are not
    with pytest.raises(UserError, match="--threshold must lie in 0..1"):
        Detector.load(path, threshold=2)
    with pytest.raises(UserError, match="--batch_size must be at least 1"):
        Detector.load(path, batch_size=0)


def test_regions_lie_where_the_map_exceeds_the_threshold(finished: RunResult, data: Path, detector: Detector) -> None:
    shown = 0
    for result in detector.predict([data / name / "test" for name in CLASSES]):
        assert result.task_id is not None
        threshold = detector.calibration.tasks[result.task_id].pixel_threshold
        assert sum(r.area for r in result.regions) == (result.anomaly_map > threshold).sum()
        shown += bool(result.regions)
        for region in result.regions:
            inside = result.anomaly_map[region.top : region.bottom, region.left : region.right]
            assert region.peak in inside and region.peak > threshold
    assert shown


def test_noise_is_unknown_and_still_scored(detector: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for result in detector.predict(noise):
        assert result.label == "unknown"
        assert result.task_id is not None and result.calibrated > 0.5


def test_products_are_known(data: Path, detector: Detector) -> None:
    results = detector.predict([data / name / "test" for name in CLASSES])
    assert all(r.class_names[0] in r.source.parts for r in results)
    assert all(r.label != "unknown" for r in results if r.source.parent.name == "good")
    assert sum(r.label == "unknown" for r in results) <= 1  # of nine defects, after six training images a product


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_results_do_not_depend_on_the_batch_size(
    finished: RunResult, data: Path, detector: Detector, batch_size: int
) -> None:
    paths = sorted(data.rglob("test/*/*.png"))
    expected = detector.predict(paths)
    batched = Detector.load(finished.directory.path, batch_size=batch_size)
    results = batched.predict(paths)
    for result, other in zip(results, expected, strict=True):
        assert (result.source, result.task_id, result.label) == (other.source, other.task_id, other.label)
        assert result.score == pytest.approx(other.score, rel=1e-5)
        assert result.distance == pytest.approx(other.distance, rel=1e-3)
        np.testing.assert_allclose(result.pixel_map, other.pixel_map, rtol=1e-4)
    _assert_same_bits(batched.stream(paths), results)


def test_one_image_takes_no_threads(
    finished: RunResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = Detector.load(finished.directory.path, batch_size=1)
    paths = sorted(data.rglob("test/*/*.png"))[::5]
    (broken := tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:100])
    expected = one_by_one.predict([*paths, broken])
    monkeypatch.setattr("threading.Thread.start", lambda _: pytest.fail("a thread was started"))
    results = [one_by_one.predict(path)[0] for path in (*paths, broken)]
    _assert_same_bits(results[:-1], expected[:-1])
    assert results[-1].label == "error" and results[-1].error == expected[-1].error


def _assert_same_bits(results: Iterable[Result], expected: Iterable[Result]) -> None:
    for result, other in zip(results, expected, strict=True):
        assert (result.source, result.label, result.score) == (other.source, other.label, other.score)
        assert (result.distances, result.regions) == (other.distances, other.regions)
        assert np.array_equal(result.patch_map, other.patch_map)
        assert np.array_equal(result.pixel_map, other.pixel_map)


def test_images_reach_the_device_as_bytes(finished: RunResult, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector.load(finished.directory.path)
    moleflow, sent = detector._run.moleflow, []
    routed = moleflow.routed
    monkeypatch.setattr(moleflow, "routed", lambda images: sent.append(images.dtype) or routed(images))
    detector.predict([photo, photo])
    detector.predict(photo)
    assert sent == [torch.uint8, torch.uint8]


def _with_room_for(detector: Detector, images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As on a device that is too small; returns the list that sizes of batches are added to."""
    moleflow, tried = detector._run.moleflow, []
    routed = moleflow.routed

    def small(batch: torch.Tensor) -> Any:
        tried.append(len(batch))
        if len(batch) > images:
            raise torch.cuda.OutOfMemoryError("too much")
        return routed(batch)

    monkeypatch.setattr(moleflow, "routed", small)
    return tried


def test_out_of_memory_halves_the_batch(
    finished: RunResult, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = sorted(data.rglob("test/*/*.png"))
    assert len(paths) == 18
    detector = Detector.load(finished.directory.path, batch_size=8)
    tried = _with_room_for(detector, 2, monkeypatch)
    with caplog.at_level(logging.WARNING):
        results = detector.predict(paths)
    assert tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2]  # nothing is tried again, no image is scored twice
    assert detector.batch_size == 2
    assert [text for text in caplog.messages if "out of memory" in text] == [
        "out of memory on the device: from now on 4 images at a time",
        "out of memory on the device: from now on 2 images at a time",
    ]
    _assert_same_bits(results, Detector.load(finished.directory.path, batch_size=2).predict(paths))


def test_memory_that_runs_out_on_the_way(finished: RunResult, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(data.rglob("test/*/*.png"))
    detector = Detector.load(finished.directory.path, batch_size=4)
    expected = detector.predict(paths)
    stream = detector.stream([*paths, *paths])
    results = [next(stream)]
    tried = _with_room_for(detector, 1, monkeypatch)
    results += stream
    assert detector.batch_size == 1 and tried[-1] == 1
    assert [r.source for r in results] == [*paths, *paths]
    scores = [r.score for r in expected]
    assert [r.score for r in results] == pytest.approx([*scores, *scores], rel=1e-5)


def test_no_room_for_a_single_image(finished: RunResult, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector.load(finished.directory.path, batch_size=4)
    with monkeypatch.context() as patch:
        assert _with_room_for(detector, 0, patch) == []
        with pytest.raises(UserError, match="no room for a single image; free some or take --device cpu"):
            detector.predict(data / "wood" / "test")
    assert len(detector.predict(data / "wood" / "test")) == 6  # and the device is free again


def test_a_run_without_calibration_is_calibrated_from_its_images(
    finished: RunResult, detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    (copy / "calibration.json").unlink()
    again = Detector.load(copy).calibration
    for task_id, task in detector.calibration.tasks.items():
        assert again.tasks[task_id].threshold == pytest.approx(task.threshold, rel=1e-5)
        assert again.tasks[task_id].pixel_threshold == pytest.approx(task.pixel_threshold, rel=1e-5)
        assert again.tasks[task_id].distance_limit == pytest.approx(task.distance_limit, rel=1e-3)
    assert read_calibration(RunDirectory(copy)) == again
    assert "thresholds of few normal images are rough (task 0: 3," in caplog.text


def test_neither_calibration_nor_images(finished: RunResult, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    (copy / "calibration.json").unlink()
    with pytest.raises(CalibrationError, match="no calibration.json .* --data_path"):
        Detector.load(copy, data_path=tmp_path / "gone")
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    assert len(Detector.load(copy, data_path=moved).calibration.tasks) == 3


def test_damaged_runs_are_user_errors(finished: RunResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        Detector.load(tmp_path)
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    for content in ("{", "[]", '{"quantile": 0.95, "tasks": [{"task_id": 0}]}'):
        (copy / "calibration.json").write_text(content)
        with pytest.raises(CalibrationError, match="calibration.json is damaged"):
            Detector.load(copy)
    (copy / "calibration.json").write_text('{"quantile": 0.9, "tasks": []}')
    with pytest.raises(CalibrationError, match="its quantile is not 0.95"):
        Detector.load(copy)
    (copy / "calibration.json").unlink()
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        Detector.load(copy)
    with pytest.raises(UserError, match="--device nonsense does not work here"):
        Detector.load(finished.directory.path, device="nonsense")


def test_a_class_without_normal_test_images(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    shutil.rmtree(root / "wood" / "test" / "good")
    calibration = read_calibration(run(root, tmp_path / "logs", num_epochs=1).directory)
    assert calibration is not None
    assert calibration.tasks[2].not_held_out == ("wood",) and calibration.tasks[2].images == 6
    assert calibration.tasks[0].not_held_out == ()
    assert any("no normal test images of wood" in warning for warning in calibration.warnings)


def test_several_classes_a_task_and_no_router(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from moleflow_fast.config import AblationConfig

    result = run(data, tmp_path, num_epochs=1, cl_scenario="2-1", ablation=AblationConfig(use_router=False))
    detector = Detector.load(result.directory.path)
    assert "the detector has to route" in caplog.text
    assert detector.calibration.tasks[0].class_names == CLASSES[:2] and detector.calibration.tasks[0].images == 6
    assert {r.class_names for r in detector.predict(data / "gasket" / "test")} == {CLASSES[:2]}


def test_a_run_in_bf16_computes_in_fp32_on_a_cpu(
    finished: RunResult, tmp_path: Path, photo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["options"]["precision"] = "bf16"
    (copy / "config.json").write_text(json.dumps(config))
    (result,) = Detector.load(copy, device="cpu").predict(photo)
    assert "no bf16 here (the device is cpu): the flow computes in fp32" in caplog.text
    assert result.score == Detector.load(finished.directory.path, device="cpu").predict(photo)[0].score


def test_the_package_alone_is_light() -> None:
    code = "import sys, moleflow_fast; assert 'torch' not in sys.modules; moleflow_fast.Detector"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    import moleflow_fast

    with pytest.raises(AttributeError, match="Detektor"):
        moleflow_fast.Detektor  # noqa: B018


def test_a_detector_needs_no_trainer() -> None:
    check = "import sys, moleflow_fast.detector.detector; "
    check += "sys.exit('moleflow_fast.trainer.continual_trainer' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", check]).returncode == 0
