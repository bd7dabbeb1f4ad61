"""compute-sanitizer: where it is, and what its report says."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

SUMMARY = {
    "memcheck": re.compile(r"^=+ ERROR SUMMARY: (\d+) errors?", re.MULTILINE),
    "racecheck": re.compile(r"^=+ RACECHECK SUMMARY: (\d+) hazards? displayed", re.MULTILINE),
}


def find() -> str | None:
    """Its path, or None; it comes with the CUDA toolkit, whose programs need not be on the path."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(str(Path(home) / "bin") for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def found(tool: str, report: str) -> int:
    """How many errors or hazards `tool` counted.

    Raises:
        ValueError: the report is none of this tool, so nothing was checked.
    """
    summary = SUMMARY[tool].search(report)
    if "COMPUTE-SANITIZER" not in report or summary is None:
        raise ValueError(f"{tool} did not run to its end:\n{report}")
    return int(summary[1])
