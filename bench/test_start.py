"""How long a command takes until it has said what can be asked of it, or has the first batch of the demo set.

Each round is a process of its own. `first batch` goes from the start of the process to the first step of the first task
of the demo set, with random ResNet-18 weights and no features in the cache; `new data` writes the set first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from device import SMALL
from recording import record

ROUNDS = 1 if SMALL else 5
COMMANDS = {
    "import torch": ("-c", "import torch"),
    "import moleflow_fast": ("-c", "import moleflow_fast"),
    "train --help": ("-m", "moleflow_fast.train", "--help"),
}
# The run is begun as `moleflow train` begins it, and ends where it would train.
UNTIL_THE_FIRST_BATCH = """
import os, sys
from moleflow_fast.cli import train

def begin(run):
    from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

    MoLEContinualTrainer._train_epoch = lambda *_: os._exit(0)
    run.execute()

train._execute = begin
sys.exit(train.main() or "no batch came")
"""


@pytest.mark.parametrize("what", COMMANDS)
def test_command(benchmark: Any, tmp_path: Path, what: str) -> None:
    record(benchmark, "start of a process", what=what)
    command = [sys.executable, "-P", *COMMANDS[what]]
    benchmark.pedantic(
        lambda: subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL), rounds=ROUNDS
    )


@pytest.mark.parametrize("data", ["there", "new data"])
def test_first_batch(benchmark: Any, tmp_path: Path, data: str) -> None:
    command = [
        sys.executable, "-P", "-c", UNTIL_THE_FIRST_BATCH, "--random_backbone", "--device", "cpu", "--quiet",
        "--log_dir", "runs", "--cache_dir", "features",
    ]  # fmt: skip

    def anew() -> None:
        folders = ["features", *(["runs"] if data == "new data" else [])]
        for folder in folders:
            shutil.rmtree(tmp_path / folder, ignore_errors=True)

    def begin() -> None:
        subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)

    if data == "there":
        begin()
    record(benchmark, "start of a process", what=f"first batch of the demo set, {data}")
    benchmark.pedantic(begin, setup=anew, rounds=ROUNDS)
