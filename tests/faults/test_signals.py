"""SIGINT and SIGTERM: the first ends a run where it can be gone on from, the second at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.soak import fingerprints
from run.small_runs import command_line, run

from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.system.interruption import Interrupted, asked_to_end, end_waits, ends_cleanly

LONG = {"num_epochs": 150, "heatmaps": 0, "experiment_name": "run"}  # long enough to be met in the middle


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def train(data: Path, logs: Path, **changes: object) -> subprocess.Popen:
    argv = [sys.executable, "-P", "-m", "moleflow_fast.train", *command_line(data, logs, **changes)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def has_done(path: Path, task: int, epochs: int) -> Callable[[], bool]:
    return lambda: len(RunDirectory(path).epochs_of(task)) >= epochs


@pytest.mark.slow
def test_a_signal_leaves_a_state_to_go_on_from(data: Path, tmp_path: Path) -> None:
    expected = run(data, tmp_path / "whole", **LONG).directory.path
    path = tmp_path / "ended" / "run"
    for number, task, resume in ((signal.SIGINT, 0, False), (signal.SIGTERM, 1, True)):
        process = train(data, tmp_path / "ended", resume=resume, **LONG)
        wait_until(has_done(path, task, 3), process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert errors.splitlines()[-1] == f"interrupted: add --resume --experiment_name run to go on with {path}"
        assert "Traceback" not in errors
        assert (path / "checkpoints" / f"task_{task}.partial.safetensors").exists()
        done = len(RunDirectory(path).epochs_of(task))
        assert 3 <= done < LONG["num_epochs"]
    run(data, tmp_path / "ended", resume=True, **LONG)
    assert fingerprints(path.parent, path) == fingerprints(expected.parent, expected)


@pytest.mark.slow
def test_ctrl_c_reaches_decoding_processes_too(data: Path, tmp_path: Path) -> None:
    """As from a terminal: the signal goes to the whole process group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        logs = tmp_path / str(number)
        process = train(data, logs, no_feature_cache=True, **{**LONG, "num_workers": 2})
        wait_until(has_done(logs / "run", 0, 1), process)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert any(line.startswith("interrupted: add --resume") for line in errors.splitlines())
        # Where the signal meets torch just starting its processes, torch complains when it takes them down.
        torchs_own = errors.count("Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__")
        assert errors.count("Traceback") == torchs_own


def test_before_anything_was_trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from moleflow_fast.cli.train import main
    from moleflow_fast.run.session import ContinualRun

    monkeypatch.setattr(ContinualRun, "_check", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(command_line(data, tmp_path)) == 143
    assert capsys.readouterr().err == "interrupted: nothing was trained yet\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_signal_waits_where_it_should(capfd: pytest.CaptureFixture[str]) -> None:
    steps = []
    with ends_cleanly():
        with pytest.raises(Interrupted) as caught, end_waits("after this step"):
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append(asked_to_end())
        assert caught.value.exit_code == 143 and steps == [signal.SIGTERM]
    assert "SIGTERM: the run ends after this step; once more, and it ends at once" in capfd.readouterr().err
    with ends_cleanly(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)
    assert asked_to_end() is None


def test_the_second_signal_ends_at_once() -> None:
    code = (
        "import time; from moleflow_fast.system.interruption import ends_cleanly, end_waits\n"
        "with ends_cleanly(), end_waits('later'):\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.01)"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert "the run ends later" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ends_cleanly():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
