"""Runs of the preset `line`: good after one pass, from a single image on, and nothing forgotten."""

import shutil
from pathlib import Path

import pytest
import torch
from run.small_runs import command_line, rows, write_data
from safetensors.torch import load_file

from moleflow_fast import Detector
from moleflow_fast.config.method import method
from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.asked import parse_options
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.session import ContinualRun, RunResult

LINE = ("adapter_mode", "num_coupling_layers", "num_epochs", "lr")


def line(data: Path, logs: Path, *more: str, **changes: object) -> RunResult:
    """A run by the command line, which starts from `line`, but small."""
    argv = command_line(data, logs, **{"heatmaps": 0, "preset": "line", **dict.fromkeys(LINE[1:]), **changes})
    options = parse_options([*argv, *more])
    assert isinstance(options, RunOptions)
    return ContinualRun(options, RunConsole(quiet=True)).execute()


def test_a_run_says_which_method_it_is() -> None:
    folder = ["--dataset", "folder", "--data_path", "parts"]
    said = [method(parse_options([*folder, *more])) for more in ([], ["--preset", "published"])]
    assert said[0].startswith("line: Gaussian front of 32 directions, no base flow, task flows of 2, ")
    assert "router with pooled covariance" in said[0] and "router with published covariance" in said[1]
    assert said[1].startswith("published: whitening adapter, base flow of 8 couplings, task flows of 2, ")
    assert method(RunOptions()).startswith("published defaults: whitening adapter")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return line(data, tmp_path_factory.mktemp("line"), "--num_epochs", "0")


def test_no_epochs_are_a_run(finished: RunResult) -> None:
    path = finished.directory.path
    assert finished.routed.mean("pixel_auroc") > 0.85
    for task_id in range(3):
        state = load_file(path / "checkpoints" / f"task_{task_id}.safetensors")
        front = {n: v for n, v in state.items() if f"input_adapters.{task_id}." in n}
        assert front[f"model.input_adapters.{task_id}.directions"].shape == (8, 8, 32, 32)
        last = [v for n, v in state.items() if n.endswith(("layers.4.weight", "layers.4.bias"))]
        assert last and not any(bool(v.any()) for v in last)


def test_its_detector(finished: RunResult, data: Path) -> None:
    detector = Detector.load(finished.directory.path)
    results = detector.predict(data / "wood" / "test")
    assert {result.class_names for result in results} == {("wood",)}
    defective = [r.score for r in results if "good" not in str(r.source)]
    assert min(defective) > max(r.score for r in results if "good" in str(r.source))


def test_training_starts_from_the_front(finished: RunResult, data: Path, tmp_path: Path) -> None:
    """A learning rate next to nothing leaves what the front gives, for every depth."""
    for couplings in ("0", "2"):
        options = ("--num_epochs", "1", "--lr", "1e-12", "--num_coupling_layers", couplings)
        trained = line(data, tmp_path / couplings, *options)
        for ours, theirs in zip(trained.routed.classes, finished.routed.classes, strict=True):
            assert ours.pixel_auroc == pytest.approx(theirs.pixel_auroc, abs=1e-4)


def test_nothing_is_forgotten(finished: RunResult) -> None:
    path = finished.directory.path / "evaluation"
    for task_id in range(3):
        then, now = rows(path / f"after_task_{task_id}.csv"), rows(path / "after_task_2.csv")
        own = [row for row in then if row["ids"] == "oracle" and row["task_id"] == str(task_id)]
        assert own and all(row in now for row in own)


@pytest.mark.parametrize("images", [1, 2])
def test_products_of_one_image_and_two(images: int, tmp_path: Path) -> None:
    data = write_data(tmp_path)
    for image in sorted((data / "gasket" / "train" / "good").iterdir())[images:]:
        image.unlink()
    result = line(data, tmp_path / "runs", "--num_epochs", "1")
    assert torch.tensor([r.image_auroc for r in result.routed.classes]).isfinite().all()
    again = Detector.load(result.directory.path).predict(data / "gasket" / "test")
    assert all(torch.tensor(r.score).isfinite() for r in again)


def test_a_resumed_run_is_the_same(finished: RunResult, data: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(finished.directory.path, tmp_path / finished.directory.path.name))
    for file in ("task_2.json", "task_2.safetensors"):
        (path / "checkpoints" / file).unlink()
    (path / "summary.json").unlink()
    line(data, tmp_path, "--num_epochs", "0", "--resume")
    ours, theirs = (load_file(p / "checkpoints" / "task_2.safetensors") for p in (path, finished.directory.path))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_augmented_features_have_a_front_too(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = line(data, tmp_path, "--num_epochs", "1", "--use_rotation_aug")
    assert result.routed.mean("pixel_auroc") > 0.7
    said = [r.message for r in caplog.records if "every step computes the Gaussian front again" in r.message]
    assert len(said) == 1 and "--use_rotation_aug" in said[0]
