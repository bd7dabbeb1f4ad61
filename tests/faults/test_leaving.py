"""A program that uses a detector ends as it should, whatever became of its streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import leaving
from run.small_runs import rows

from moleflow_fast import Detector
from moleflow_fast.cli.predict import main
from moleflow_fast.predict.output import Output
from moleflow_fast.run.session import RunResult


def test_streams_left_in_every_way(finished: RunResult, data: Path) -> None:
    image = data / "wood" / "test" / "good" / "000.png"
    command = [sys.executable, "-P", leaving.__file__, str(finished.directory.path), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    outcomes = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if " " in line)
    expected = {way.__name__: str(code) for way, code in leaving.FORKED.items()}
    assert outcomes == {**expected, "daemons": "0"}, done.stderr
    assert done.returncode == 0
    assert done.stdout.splitlines().count("3") == 1  # of `at_exit`
    assert "terminate called" not in done.stderr and done.stderr.count("Traceback") == 1, done.stderr  # of `fails`


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_predict_writes_what_it_scored(
    number: int,
    finished: RunResult,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = Output.add, tmp_path / "out"
    _say_signals_after(3, number, monkeypatch, whole)
    before = signal.getsignal(number)
    assert main([str(finished.directory.path), str(data / "wood"), "-o", str(out), "--html", "--quiet"]) == 128 + number
    assert signal.getsignal(number) is before
    images = len(list((data / "wood").rglob("*/*/*.png")))
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("interrupted: 3 of ") and errors[-1].endswith(f" images are scored, written to {out}")
    assert int(errors[-1].split()[3]) <= images
    assert len(rows(out / "scores.csv")) == len((out / "scores.jsonl").read_text().splitlines()) == 3
    page = (out / "index.html").read_text()
    assert "interrupted, 3 of " in page and page.count('{"path":') == 3


def _say_signals_after(count: int, number: int, monkeypatch: pytest.MonkeyPatch, whole) -> None:  # noqa: ANN001
    def add(self: Output, drawn) -> dict:  # noqa: ANN001
        if self._number + 1 == count:
            os.kill(os.getpid(), number)  # in the middle of a row
        return whole(self, drawn)

    monkeypatch.setattr(Output, "add", add)


def test_predict_before_anything_was_scored(
    finished: RunResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    out = tmp_path / "out"
    assert main([str(finished.directory.path), str(data / "wood"), "-o", str(out)]) == 130
    assert capsys.readouterr().err == "interrupted: nothing was scored yet\n" and not out.exists()
