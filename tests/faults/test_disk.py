"""A disk that fills up and one that is read-only: what could not be written is named, and the run goes on after."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.mounts import fill, read_only, small_disk
from faults.soak import fingerprints
from run.small_runs import command_line, run

from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.train import main as train
from moleflow_fast.evaluation.confusion import draw_confusion
from moleflow_fast.run import evaluating
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError
from moleflow_fast.run.session import RunResult
from moleflow_fast.trainer import checkpoint, partial_state

OPTIONS = {"heatmaps": 0, "experiment_name": "run", "state_seconds": 0}
KEPT = "finished tasks are kept: free some space or make the place writable, and go on with --resume"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=16) as path:
        yield path


def full_from(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, disk: Path, call: int) -> None:
    """Fill the disk when a function is called for the nth time."""
    function, calls = getattr(owner, name), iter(range(1000))

    def before(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            fill(disk)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, before)


@pytest.mark.parametrize(
    ("owner", "name", "call", "file"),
    [
        (checkpoint, "save_task", 1, r"checkpoints/task_1\.safetensors"),
        (checkpoint, "write_json", 1, r"checkpoints/task_1\.json"),
        (partial_state, "_write", 3, r"checkpoints/task_1\.partial\.safetensors"),
        (RunDirectory, "write_evaluation", 1, r"evaluation/after_task_1\.csv"),
        (RunDirectory, "write_summary", 0, r"summary\.json"),
        (evaluating, "draw_confusion", 0, r"routing_confusion\.png"),
    ],
)
def test_a_full_disk(
    owner: Any, name: str, call: int, file: str, disk: Path, data: Path, finished: RunResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    full_from(monkeypatch, owner, name, disk, call)
    cache = {"cache_dir": str(disk.parent / "features")}  # elsewhere
    with pytest.raises(RunDirectoryError, match=rf"{file} could not be written .*[Nn]o space left.*{KEPT}"):
        run(data, disk, **OPTIONS, **cache)
    monkeypatch.undo()
    kept = [] if "task_0" in file else [0]
    assert checkpoint.completed_tasks(disk / "run" / "checkpoints")[:1] == kept
    (disk / "filler").unlink()
    result = run(data, disk, **OPTIONS, **cache, resume=True)
    assert_same_run(result, finished)


def assert_same_run(result: RunResult, expected: RunResult) -> None:
    ours, theirs = (fingerprints(r.directory.path, r.directory.path) for r in (result, expected))
    assert ours == theirs


def append_to_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    append: Callable[..., None] = RunDirectory.append_epoch

    def full(self: RunDirectory, record: Any) -> None:
        if record.task_id == 1:
            self._epochs.unlink()
            self._epochs.symlink_to("/dev/full")
        append(self, record)

    monkeypatch.setattr(RunDirectory, "append_epoch", full)


def test_no_space_for_a_row_of_epochs(
    data: Path, tmp_path: Path, finished: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_to_a_full_disk(monkeypatch)
    message = rf"epochs\.csv could not be written \(No space left on device\).*{KEPT}"
    with pytest.raises(RunDirectoryError, match=message):
        run(data, tmp_path, **OPTIONS)
    monkeypatch.undo()
    (tmp_path / "run" / "epochs.csv").unlink()
    (tmp_path / "run" / "epochs.csv").write_text((finished.directory.path / "epochs.csv").read_text()[:-20])
    assert_same_run(run(data, tmp_path, **OPTIONS, resume=True), finished)


def test_a_disk_that_is_full_at_the_start(disk: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk)
    assert train(command_line(data, disk, **OPTIONS)) == 1
    error = capsys.readouterr().err
    assert "could not be written (No space left on device)" in error and "Traceback" not in error
    (disk / "filler").unlink()
    assert train(command_line(data, disk, **OPTIONS)) == 0


def test_a_full_disk_for_features(
    disk: Path, data: Path, tmp_path: Path, finished: RunResult, caplog: pytest.LogCaptureFixture
) -> None:
    fill(disk)
    result = run(data, tmp_path, **OPTIONS, cache_dir=str(disk / "features"))
    assert "features cannot be kept in" in caplog.text and "No space left on device" in caplog.text
    assert_same_run(result, finished)


def test_a_full_disk_for_pictures(disk: Path) -> None:
    fill(disk)
    with pytest.raises(OSError, match=r"a\.png could not be written"):
        draw_confusion(disk / "a.png", np.eye(2, dtype=int), [["a"], ["b"]])


def test_a_read_only_run_directory(
    data: Path, tmp_path: Path, finished: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "logs" / "run"))
    argv = command_line(data, tmp_path / "logs", **OPTIONS, cache_dir=str(tmp_path / "features"))
    before = fingerprints(copy, copy)
    with read_only(tmp_path / "logs"):
        assert train([*argv, "--resume"]) == 1
        assert ".lock could not be written (Read-only file system); finished tasks" in capsys.readouterr().err
        assert train([*argv, "--experiment_name", "another"]) == 1
        assert "another could not be written (Read-only file system)" in capsys.readouterr().err
        assert evaluate([str(copy), "--quiet"]) == 1
        assert "again.csv could not be written (Read-only file system)" in capsys.readouterr().err
    assert fingerprints(copy, copy) == before
    assert train([*argv, "--resume"]) == 0


def test_a_read_only_cache(data: Path, tmp_path: Path, finished: RunResult, caplog: pytest.LogCaptureFixture) -> None:
    cache = finished.directory.path.parent / "features"
    with read_only(cache):
        result = run(data, tmp_path, **OPTIONS, cache_dir=str(cache))
    assert "Read-only file system" in caplog.text
    assert_same_run(result, finished)
