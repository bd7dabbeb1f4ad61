"""The four ways to run one subject, and whether they can run here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

from moleflow_fast.backend import use_backend

# published: bench/published.py. eager: our plain PyTorch. compile: that under torch.compile. cpp: our compiled part.
BACKENDS = ("published", "eager", "compile", "cpp")


def pairs(cases: Iterable[Any], compiled: Iterable[Any]) -> list[tuple[Any, str]]:
    """(case, backend) for every backend of a case, one after another; torch.compile only for cases in `compiled`.

    It takes one to two minutes for a training step, and as long again for each further shape.
    """
    chosen = set(compiled)
    return [(case, backend) for case in cases for backend in BACKENDS if backend != "compile" or case in chosen]


@contextmanager
def running(backend: str) -> Iterator[None]:
    """Ours in the block runs as `backend` says."""
    with use_backend("cpp" if backend == "cpp" else "eager"):
        yield


def skip_unless_runnable(backend: str) -> None:
    if backend == "compile" and (obstacle := compile_obstacle()):
        pytest.skip(f"torch.compile does not work here: {obstacle}")


@cache
def compile_obstacle() -> str | None:
    """Why torch.compile cannot run here (most often: no C++ compiler), None if it can."""
    try:
        torch.compile(lambda x: torch.tanh(x) + 1)(torch.randn(1000))
    except Exception as error:  # inductor raises many kinds; any of them means the same here
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None
