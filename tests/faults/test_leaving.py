"""A program that uses a detector ends as it should, whatever became of its streams."""

import subprocess
import sys
from pathlib import Path

from faults import leaving

from moleflow_fast.run import RunResult


def test_streams_left_in_every_way(finished: RunResult, data: Path) -> None:
    image = data / "wood" / "test" / "good" / "000.png"
    command = [sys.executable, "-P", leaving.__file__, str(finished.directory.path), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    outcomes = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert outcomes == {**{way.__name__: str(code) for way, code in leaving.FORKED.items()}, "daemons": "0"}, done.stderr
    assert done.returncode == 0
    assert done.stdout.splitlines().count("3") == 1  # of `at_exit`
    assert "terminate called" not in done.stderr and done.stderr.count("Traceback") == 1, done.stderr  # of `fails`
