"""Programs run beside the tests, in which kernels are compiled and not interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_apart(*words: str | Path, cache: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Python with these words, this package, and a cache of Triton's own."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment(cache), timeout=280, **options
    )  # type: ignore[call-overload, no-any-return]


def environment(cache: Path) -> dict[str, str]:
    rest = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**rest, "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(cache)}
