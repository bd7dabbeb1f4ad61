"""Capturing a function as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

logger = logging.getLogger(__name__)

_WARM_UP = 2  # kernels are compiled and workspaces allocated before a capture


def warm_up(run: Callable[[], object]) -> None:
    """Run a few times on a stream beside the current one, as a capture does."""
    side = _beside(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)


@cache
def _beside(device: int) -> torch.cuda.Stream:
    """One for all captures: libraries keep a workspace of 32 MiB for each stream."""
    return torch.cuda.Stream(device)


def capture(run: Callable[[], object], pool: Any = None) -> torch.cuda.CUDAGraph | None:
    """The graph of `run` after a warm-up; None, with a warning that says why, where it cannot be captured.

    Args:
        pool: memory that graphs share whose results never live side by side.
    """
    warm_up(run)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # Other threads may read the next batch meanwhile: what they call must not spoil the capture.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            run()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        logger.warning("no CUDA graph, kernels are launched one by one, which is slower: %s", reason)
        return None
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own
    return graph
