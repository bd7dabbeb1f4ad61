"""What a script compiles for GPUs that are not here, and what each of those GPUs allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# By compute capability.
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # bytes a block can have
SPILLED = {80: 8, 90: 0, 100: 8}  # bytes, in what runs without a table: nothing is tuned for these
INSTRUCTION = {80: "mma.sync", 90: "wgmma", 100: "tcgen05"}


def compiled_once(script: Path, request: pytest.FixtureRequest) -> Any:
    """The JSON that `script` prints; it runs once a run of the tests, and workers beside this one share the result.

    With --full the script compiles all that it knows, else what stands for it.

    A process of its own runs it: here kernels may have been decorated for the interpreter.
    """
    folder = request.getfixturevalue("tmp_path_factory").getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    result = folder / f"{script.stem}.json"
    with FileLock(result.with_suffix(".lock")):
        if not result.exists():
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the package that is tested here
            command = [sys.executable, script, *(["--full"] if request.config.getoption("--full") else [])]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            result.write_text(done.stdout)
    return json.loads(result.read_text())
