"""`moleflow train` as a person meets it: messages, exit codes, nothing left half-done."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run.small_runs import CLASSES, command_line, rows

from moleflow_fast.cli.train import main


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "data"))


def test_a_run_ends_with_its_tables(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command_line(data, tmp_path, task_classes=CLASSES[:2], experiment_name="mine")) == 0
    out = capsys.readouterr().out
    for text in ("random (seed 0)", "after task 1", "mean (routed)", "forgetting", "written to"):
        assert text in out
    assert (tmp_path / "mine" / "summary.json").exists()


def test_a_run_says_where_its_time_went(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    assert main(command_line(data, tmp_path, task_classes=CLASSES[:2], experiment_name="mine", num_workers=1)) == 0
    wall = time.perf_counter() - started
    seconds = json.loads((tmp_path / "mine" / "summary.json").read_text())["seconds"]
    assert 0.9 * wall < sum(seconds.values()) <= wall
    worked = {"check", "backbone", "cache", "training", "routing", "scoring", "metrics", "pictures", "checkpoints"}
    assert worked <= set(seconds) and all(value >= 0 for value in seconds.values())
    assert "time           " in capsys.readouterr().out


def test_a_small_task_is_trained_with_a_message(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(command_line(data, tmp_path, task_classes=CLASSES[:1], batch_size=16, experiment_name="few")) == 0
    assert "6 training images are fewer than a batch of 16" in caplog.text
    assert len(rows(tmp_path / "few" / "epochs.csv")) == 2


def refused(argv: list[str], logs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a run that was refused before it left anything."""
    assert main(argv) == 1
    assert not [p for p in logs.iterdir() if p.name != "features"] if logs.exists() else True
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_classes": ["fabrik"]}, "did you mean 'fabric'?"),
        ({"cl_scenario": "4-1"}, "starts with 4 classes, but only 3"),
        ({"cl_scenario": "one"}, "--cl_scenario must read base-inc"),
        ({"device": "cuda:99"}, "--device cuda:99 does not work here"),
        ({"device": "toaster"}, "--device toaster does not work here"),
        ({"backbone_name": "resnet1"}, "resnet1"),
        ({"backbone_layers": ["layer9"]}, "layer9"),
        ({"random_backbone": False, "backbone_weights": "no/such/file.safetensors"}, "no/such/file.safetensors"),
    ],
)
def test_options_that_do_not_fit(
    changes: dict, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(command_line(data, tmp_path / "logs", **changes), tmp_path / "logs", capsys)


@pytest.mark.parametrize(
    ("backend", "changes", "message"),
    [
        ("fast", {}, "unknown backend 'fast'; MOLEFLOW_BACKEND must be one of auto, eager, cpp"),
        ("cpp", {"no_scale_context": True, "use_spectral_norm": True}, "backend cpp cannot run this: its layers carry"),
    ],
)
def test_a_backend_that_cannot_run(
    backend: str, changes: dict, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MOLEFLOW_BACKEND", backend)
    assert message in refused(command_line(data, tmp_path / "logs", **changes), tmp_path / "logs", capsys)


@pytest.mark.parametrize(("backend", "line"), [("auto", "flow           compiled"), ("eager", "plain PyTorch: b")])
def test_a_run_says_what_computes_its_flow(
    backend: str, line: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MOLEFLOW_BACKEND", backend)
    assert main(command_line(data, tmp_path, task_classes=CLASSES[:1], experiment_name="mine", num_epochs=1)) == 0
    assert line in capsys.readouterr().out


def test_a_missing_mask(own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = next((own_data / "gasket" / "ground_truth").glob("*/*_mask.png"))
    mask.unlink()
    error = refused(command_line(own_data, tmp_path / "logs"), tmp_path / "logs", capsys)
    assert f"its mask {mask} is missing" in error


def test_a_truncated_image(own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = own_data / "wood" / "train" / "good" / "003.png"
    image.write_bytes(image.read_bytes()[:-200])
    assert str(image) in refused(command_line(own_data, tmp_path / "logs"), tmp_path / "logs", capsys)


def test_an_empty_class(own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in (own_data / "wood" / "train" / "good").iterdir():
        image.unlink()
    assert "no images in it" in refused(command_line(own_data, tmp_path / "logs"), tmp_path / "logs", capsys)


def test_the_class_folder_given_for_its_parent(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(command_line(data / "wood", tmp_path / "logs"), tmp_path / "logs", capsys)
    assert f"give its parent, {data}, as --data_path" in error


def test_own_images_are_not_taken_for_the_demo_set(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_data / "demo.json").unlink()
    argv = command_line(own_data, tmp_path / "logs", dataset="demo")
    assert "say what it is with --dataset folder" in refused(argv, tmp_path / "logs", capsys)


def test_divergence_keeps_what_was_learned(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command_line(data, tmp_path, lr=1e30, experiment_name="wild")) == 1
    error = capsys.readouterr().err
    assert "lower --lr" in error
    assert (tmp_path / "wild" / "config.json").exists()


def test_tensorboard_gets_the_curves(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    argv = command_line(data, tmp_path, task_classes=CLASSES[:2], experiment_name="board", tensorboard=True)
    assert main(argv) == 0
    events = EventAccumulator(str(tmp_path / "board" / "tensorboard"))
    events.Reload()
    losses = [float(row["loss"]) for row in rows(tmp_path / "board" / "epochs.csv") if row["task_id"] == "1"]
    assert [event.value for event in events.Scalars("task_1/loss")] == pytest.approx(losses, rel=1e-6)
    means = events.Scalars("oracle/image_auroc/mean")
    assert [event.step for event in means] == [0, 1]


def test_tensorboard_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    error = refused(command_line(data, tmp_path / "logs", tensorboard=True), tmp_path / "logs", capsys)
    assert "pip install 'moleflow_fast[tensorboard]'" in error


def test_gradients_that_the_caller_switched_off(data: Path, tmp_path: Path) -> None:
    argv = command_line(data, tmp_path, task_classes=CLASSES[:1], heatmaps=0)
    assert main([*argv, "--experiment_name", "plain"]) == 0
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert main([*argv, "--experiment_name", "odd"]) == 0
            assert torch.is_inference_mode_enabled() and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    plain, odd = (tmp_path / name / "checkpoints" / "task_0.safetensors" for name in ("plain", "odd"))
    assert plain.read_bytes() == odd.read_bytes()


def test_what_a_backbone_does_not_take(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mps = refused(command_line(data, tmp_path / "logs", device="mps"), tmp_path / "logs", capsys)
    assert mps == "error: --device mps does not work here: it must be auto, cpu, cuda or cuda:N\n"


def test_help_in_groups() -> None:
    command = [sys.executable, "-P", "-m", "moleflow_fast.train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for heading in ("data:", "backbone:", "training:", "evaluation:", "method and ablations:", "examples:"):
        assert heading in done.stdout
