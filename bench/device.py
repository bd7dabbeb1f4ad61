"""Where the benchmarks run: on the GPU where there is one, else on the CPU.

MOLEFLOW_BENCH_SMALL=1 shrinks everything, to see that the benchmarks run; its timings mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

ON_GPU = torch.cuda.is_available()
SMALL = os.environ.get("MOLEFLOW_BENCH_SMALL", "0") != "0"
DEVICE = "cuda" if ON_GPU else "cpu"


def synchronise() -> None:
    """Wait for what was launched."""
    if ON_GPU:
        torch.cuda.synchronize()


def finished(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, returning only when the device is done: what is timed must be."""

    def run(*args: Any) -> Any:
        result = function(*args)
        synchronise()
        return result

    return run
