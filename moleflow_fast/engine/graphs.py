"""Capturing a function as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_WARM_UP = 2  # kernels are compiled and workspaces allocated before a capture


def warm_up(run: Callable[[], object]) -> None:
    """Run a few times on a stream beside the current one, as a capture does."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)


def capture(run: Callable[[], object], pool: Any = None) -> torch.cuda.CUDAGraph:
    """The graph of `run` after a warm-up; `pool` is memory that graphs share whose results never live side by side."""
    warm_up(run)
    graph = torch.cuda.CUDAGraph()
    # Other threads may read the next batch meanwhile: what they call must not spoil the capture.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        run()
    return graph
