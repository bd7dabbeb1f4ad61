"""Products that come and go where all share the router's covariance."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from run.changes.conftest import NEW, OLD, extension
from run.small_runs import rows, run
from safetensors.torch import load_file

from moleflow_fast import Detector
from moleflow_fast.cli.train import main
from moleflow_fast.config import AblationConfig
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.detector.calibration_file import read_calibration
from moleflow_fast.detector.trained_run import TrainedRun
from moleflow_fast.run.directory import RunDirectory

POOLED = AblationConfig(lambda_logdet=1e-5, router_covariance="pooled")


@pytest.fixture(scope="module")
def base(data: Path, new_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(data, tmp_path_factory.mktemp("logs"), task_classes=OLD, ablation=POOLED).directory.path


@pytest.fixture(scope="module")
def extended(base: Path, new_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(base, tmp_path_factory.mktemp("extended") / "parts"))
    assert main(extension(path, new_data)) == 0
    return path


def removal(path: Path) -> list[str]:
    return ["--remove", str(path), "--task_classes", NEW, "--quiet"]


def calibration(path: Path) -> Calibration:
    found = read_calibration(RunDirectory(path))
    assert found is not None
    return found


def without_images(path: Path) -> None:
    """Those of the old products are gone."""
    config = json.loads((path / "config.json").read_text())
    config["options"]["data_path"] = str(path / "gone")
    (path / "config.json").write_text(json.dumps(config))


def test_it_is_a_run_over_all_products(extended: Path, data: Path, new_data: Path, tmp_path: Path) -> None:
    together = Path(shutil.copytree(data, tmp_path / "together"))
    shutil.copytree(new_data / NEW, together / NEW)
    whole = run(together, tmp_path / "logs", task_classes=(*OLD, NEW), ablation=POOLED).directory.path
    for task in range(3):
        ours, theirs = (load_file(path / "checkpoints" / f"task_{task}.safetensors") for path in (extended, whole))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    tables = [rows(path / "evaluation" / "after_task_2.csv") for path in (extended, whole)]
    assert tables[0] == tables[1]
    assert calibration(extended) == calibration(whole)


def test_old_prototypes_stay_and_changed_routes_are_counted(
    base: Path, data: Path, new_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(base, tmp_path / "parts"))
    assert main(extension(path, new_data)) == 0
    said = capsys.readouterr().out
    for task in (0, 1):
        name = f"checkpoints/task_{task}.safetensors"
        assert (path / name).read_bytes() == (base / name).read_bytes()
    moved = 0
    images = [file for name in OLD for file in sorted((data / name / "test").rglob("*.png"))]
    for old, new in zip(*(Detector.load(p).predict(images) for p in (base, path)), strict=True):
        assert old.distances[0] != new.distances[0]
        moved += (old.distances[0] < old.distances[1]) != (new.distances[0] < new.distances[1])
    line = f"of all products now: {moved} of {len(images)} test images of fabric, gasket lie nearest to another of the"
    assert len(images) == 12 and said.count(line) == 1
    assert "distances are of another covariance, images farther than" in said


def root_mean_square(path: Path, task: int) -> float:
    """Distance of a task's training images to its prototype."""
    run = TrainedRun(RunDirectory(path), "cpu", None).run
    features = run.features.training([OLD[task]]).image_features
    return float(run.moleflow.router.distances(features)[:, task].square().mean().sqrt())


def test_limits_of_old_products_whose_images_are_gone(
    base: Path, extended: Path, new_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(base, tmp_path / "parts"))
    without_images(path)
    assert main(extension(path, new_data)) == 0
    said = capsys.readouterr().out
    assert said.count("of fabric, gasket are scaled to the new covariance, not measured") == 1
    assert re.search(r"of all products now: \d of 6 test images of wood lie nearest to another of the old", said)
    before, after, measured = (calibration(p).tasks for p in (base, path, extended))
    for task in (0, 1):
        factor = root_mean_square(extended, task) / root_mean_square(base, task)
        assert after[task].largest_distance == pytest.approx(factor * before[task].largest_distance, rel=1e-4)
        assert after[task].nearest_other is not None
        assert after[task].nearest_other <= factor * before[task].nearest_other * 1.001
        assert after[task].median == before[task].median and after[task].threshold == before[task].threshold
    assert after[2].largest_distance == measured[2].largest_distance


def test_a_removed_product_s_part_in_the_covariance_goes_with_it(base: Path, extended: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(extended, tmp_path / "parts"))
    for _ in range(2):
        assert main(removal(path)) == 0
        assert calibration(path) == calibration(base)
    first, second = (TrainedRun(RunDirectory(p), "cpu", None).run.moleflow.router for p in (base, path))
    features = torch.randn(5, 32)
    assert torch.equal(first.distances(features), second.distances(features))


def test_limits_after_a_removal_without_images(
    base: Path, extended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(extended, tmp_path / "parts"))
    without_images(path)
    assert main(removal(path)) == 0
    assert capsys.readouterr().out.count("scaled to the new covariance, not measured") == 1
    with_it, after = (calibration(p).tasks for p in (extended, path))
    for task in (0, 1):
        factor = root_mean_square(base, task) / root_mean_square(extended, task)
        assert after[task].largest_distance == pytest.approx(factor * with_it[task].largest_distance, rel=1e-4)
    once = (path / "calibration.json").read_bytes()
    assert main(removal(path)) == 0
    assert (path / "calibration.json").read_bytes() == once


def test_detectors_of_an_unfinished_extension_route_by_the_old_products(
    base: Path, new_data: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(base, tmp_path / "parts"))
    before = [dict(r.distances) for r in Detector.load(path).predict(data)]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moleflow_fast.run.evaluating.Evaluating.draw", stop)  # after training and evaluation
    with pytest.raises(KeyboardInterrupt):
        main(extension(path, new_data))
    assert (path / "checkpoints" / "task_2.json").exists()
    assert [dict(r.distances) for r in Detector.load(path).predict(data)] == before
