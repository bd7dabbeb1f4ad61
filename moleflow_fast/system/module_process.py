"""A module of the package at work in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def start_module(
    module: str, environment: dict[str, str] | None = None, arguments: Sequence[str] = (), **options: Any
) -> subprocess.Popen[Any]:
    """`python -m module arguments`, which imports from where this process does.

    It has pipes to its input and from its output, unless `options` of Popen say otherwise. It imports nothing else of
    this process, and is in a session of its own: a Ctrl-C is its owner's, who takes it along by closing its input.
    """
    package = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": package, **(environment or {})},
        start_new_session=True,
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options},
    )
