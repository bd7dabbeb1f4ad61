"""kill -9 at moments drawn at random: a dozen here, as many as wanted with soak.py."""

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 12


@pytest.mark.slow
def test_a_killed_run_loses_nothing() -> None:
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--kills", str(KILLS), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills in" in done.stdout and "every result equal" in done.stdout
