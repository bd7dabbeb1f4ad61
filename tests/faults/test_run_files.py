"""Damaged files of a run at --resume: mended where the run can make them again, else named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.soak import fingerprints
from run.small_runs import command_line, run

from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.train import main as train
from moleflow_fast.run.directory import DamagedRunFile, RunDirectory
from moleflow_fast.run.session import RunResult

OPTIONS = {"heatmaps": 0, "experiment_name": "run"}


@pytest.fixture
def copy(finished: RunResult, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(finished.directory.path, tmp_path / "logs" / "run"))
    shutil.copytree(finished.directory.path.parent / "features", tmp_path / "logs" / "features")
    return path


def cut(file: Path, left: int = 20) -> None:
    file.write_bytes(file.read_bytes()[:-left])


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '"options"', "{}", '{"options": 3}', '{"options": {"lr": "fast"}}', "[" * 100_000,
        '{"options": {"dataset": "folder", "data_path": "x", "ablation": {}, "task_classes": "wood"}}',
        '{"options": {"ablation": {"colour": 1}}}', '{"options": {"ablation": {}, "num_epochs": -1}}', "\ud7ff\x00",
    ],
)  # fmt: skip
def test_a_damaged_configuration(content: str, copy: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "config.json").write_text(content)
    assert train([*command_line(data, copy.parent, **OPTIONS), "--resume"]) == 1
    error = capsys.readouterr().err
    assert f"{copy / 'config.json'} is damaged (" in error and "put back a copy of it" in error
    assert evaluate([str(copy)]) == 1
    assert "config.json is damaged" in capsys.readouterr().err


def test_a_torn_table_of_epochs(copy: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    for left in (1, 20, 150):
        cut(copy / "epochs.csv", left)
        torn = (copy / "epochs.csv").read_bytes()
        run(data, copy.parent, resume=True, **OPTIONS)
        assert (copy / "epochs.csv").read_bytes() == torn[: torn.rfind(b"\n") + 1]
        assert "1 damaged row left out" in caplog.text


def test_a_row_that_is_two(copy: Path) -> None:
    """As when another row follows a torn one."""
    text = (copy / "epochs.csv").read_bytes().replace(b"\r\n1,train,0", b"1,train,0")
    (copy / "epochs.csv").write_bytes(text)
    assert [len(RunDirectory(copy).epochs_of(t)) for t in range(3)] == [1, 1, 2]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("damage", [cut, lambda file: cut(file, 1), lambda file: file.write_bytes(b"\xff\xfe")])
def test_a_damaged_evaluation_is_made_again(
    first: int, damage: Callable[[Path], None], copy: Path, data: Path, finished: RunResult
) -> None:
    damage(copy / "evaluation" / f"after_task_{first}.csv")
    with pytest.raises(DamagedRunFile, match=rf"after_task_{first}\.csv is damaged .* go on with --resume"):
        RunDirectory(copy).read_evaluation(first)
    run(data, copy.parent, resume=True, **OPTIONS)
    assert fingerprints(copy, copy) == fingerprints(finished.directory.path, finished.directory.path)


def test_a_damaged_checkpoint_at_resume(copy: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy / "checkpoints" / "task_1.safetensors"
    whole = file.read_bytes()
    for content in (whole[:300], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\x80\x04\x95pickle"):
        file.write_bytes(content)
        assert train([*command_line(data, copy.parent, **OPTIONS), "--resume"]) == 1
        error = capsys.readouterr().err
        assert f"{file} is damaged" in error and "delete it and its .json" in error and "Traceback" not in error


def test_a_damaged_checkpoint_once_deleted_is_made_again(copy: Path, data: Path, finished: RunResult) -> None:
    for name in ("task_1.json", "task_1.safetensors"):
        (copy / "checkpoints" / name).unlink()
    run(data, copy.parent, resume=True, **OPTIONS)
    assert fingerprints(copy, copy) == fingerprints(finished.directory.path, finished.directory.path)


def test_a_partial_state_that_is_damaged_costs_its_task(
    copy: Path, data: Path, finished: RunResult, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("task_2.json", "task_2.safetensors"):
        (copy / "checkpoints" / name).unlink()
    (copy / "checkpoints" / "task_2.partial.safetensors").write_bytes(b"half")
    run(data, copy.parent, resume=True, **OPTIONS)
    assert "task_2.partial.safetensors is not used" in caplog.text
    assert fingerprints(copy, copy) == fingerprints(finished.directory.path, finished.directory.path)


def test_what_killed_writers_left_is_removed(copy: Path, data: Path) -> None:
    left = copy / "checkpoints" / f".task_1.safetensors.{2**22 + 1}.tmp"  # no process has so high a number
    elsewhere = copy / "evaluation" / f".again.csv.{os.getpid()}.tmp"  # still being written
    late = copy / "checkpoints" / "task_1.partial.safetensors"  # its worker died between checkpoint and removal
    for file in (left, elsewhere, late):
        file.write_text("half")
    run(data, copy.parent, resume=True, **OPTIONS)
    assert not left.exists() and not late.exists() and elsewhere.exists()


def test_an_older_run_goes_on(copy: Path, data: Path, finished: RunResult) -> None:
    """Without checksums, schema, and the option that did not exist."""
    for marker in (copy / "checkpoints").glob("*.json"):
        content = json.loads(marker.read_text())
        marker.write_text(json.dumps({n: v for n, v in content.items() if n not in ("schema", "sha256")}))
    config = json.loads((copy / "config.json").read_text())
    del config["options"]["state_seconds"]
    (copy / "config.json").write_text(json.dumps(config))
    for name in ("task_2.json", "task_2.safetensors"):
        (copy / "checkpoints" / name).unlink()
    run(data, copy.parent, resume=True, **OPTIONS)
    task_2 = "checkpoints/task_2.safetensors"
    expected = fingerprints(finished.directory.path, finished.directory.path)
    assert fingerprints(copy, copy)[task_2] == expected[task_2]
