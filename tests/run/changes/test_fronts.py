"""A run of no epochs behind Gaussian fronts, from its first product to a removed one and an exported file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from run.changes.conftest import NEW, OLD
from run.small_runs import run
from safetensors.torch import load_file

from moleflow_fast import Detector
from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.export import main as export
from moleflow_fast.cli.export_published import main as export_published
from moleflow_fast.cli.predict import main as predict
from moleflow_fast.cli.train import main
from moleflow_fast.config import AblationConfig
from moleflow_fast.detector.trained_run import TrainedRun
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.run.directory import RunDirectory


def test_an_added_expert_is_that_of_a_run_over_all_products(
    fronts: Path, data: Path, new_data: Path, tmp_path: Path
) -> None:
    together = Path(shutil.copytree(data, tmp_path / "together"))
    shutil.copytree(new_data / NEW, together / NEW)
    config = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False)
    whole = run(together, tmp_path / "logs", task_classes=(*OLD, NEW), num_epochs=0, ablation=config).directory.path
    ours, theirs = (load_file(path / "checkpoints" / "task_2.safetensors") for path in (fronts, whole))
    assert any(name.endswith("input_adapters.2.directions") for name in ours)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_old_products_stay_as_they_were(fronts: Path, data: Path) -> None:
    before, after = (Detector.load(path).predict(data) for path in (fronts.with_name("before"), fronts))
    same = [(a, b) for a, b in zip(before, after, strict=True) if a.task_id == b.task_id]
    assert same and all(a.score == b.score and (a.pixel_map == b.pixel_map).all() for a, b in same)


def test_a_detector_sees_what_the_evaluation_saw(fronts: Path) -> None:
    run, detector = TrainedRun(RunDirectory.open(fronts), "cpu", None).run, Detector.load(fronts)
    for test in run.features.tests_until(2):
        results = detector.predict([sample.path for sample in run.images.test(test.name).samples])
        ids = run.scorer.route(test)
        maps = run.scorer.patch_maps(test, ids)
        assert [r.task_id for r in results] == ids.tolist()
        scores = image_scores(maps, run.moleflow.config)
        np.testing.assert_allclose([r.score for r in results], scores, rtol=1e-5)


def test_diagnostics_of_an_untrained_flow_are_those_of_its_front(fronts: Path) -> None:
    numbers = json.loads((fronts / "diagnostics" / "task_1.json").read_text())
    assert 0.1 < numbers["z_square_per_channel"] < 1  # of the images it was fitted to, which are few
    assert numbers["flow_input_std"] ** 2 == pytest.approx(numbers["z_square_per_channel"], rel=0.05)


def test_commands_read_it(fronts: Path, data: Path, new_data: Path, tmp_path: Path) -> None:
    assert predict([str(fronts), str(new_data / NEW), "-o", str(tmp_path / "predictions")]) == 0
    copy = Path(shutil.copytree(fronts, tmp_path / "copy"))
    assert evaluate([str(copy), "--quiet"]) == 0
    assert main(["--remove", str(copy), "--task_classes", OLD[0], "--quiet"]) == 0
    assert 0 not in Detector.load(copy).calibration.tasks


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_exported(fronts: Path, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"detector.{'onnx' if kind == 'onnx' else 'pt2'}"
    assert export([str(fronts), "--format", kind, "-o", str(file), "--check_images", "4"]) == 0
    parity = json.loads(file.with_name(f"{file.name}.json").read_text())["parity"]["runtimes"]
    assert parity and file.stat().st_size > 3 * 8 * 8 * 32 * 32 * 4  # bytes of directions


def test_no_published_checkpoint(fronts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_published([str(fronts), "-o", str(tmp_path / "out")]) == 1
    assert "--adapter_mode whitening" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
