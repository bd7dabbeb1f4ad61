"""A function of a batch of images as CUDA graphs: one launch a batch, whatever the function does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.engine.graphs import capture

LARGEST = 256  # images of one graph; more go through in several

Run = Callable[[Tensor], tuple[Tensor, ...]]


class CapturedRuns:
    """Runs a function on batches filled up to a power of two, each size captured once.

    Args:
        run: images (B, C, S, S) of any dtype -> tensors whose rows each depend on one image; reads nothing back from
            the device.
        state: images -> what the graphs have in them, as objects; when one is another than before, all graphs are
            dropped. None where no graph may run.
    """

    def __init__(self, run: Run, state: Callable[[Tensor], Sequence[Any] | None]) -> None:
        self._run = run
        self._state = state
        self._captured_with: list[Any] = []
        self._batches: dict[tuple[Any, ...], _Batch] = {}
        self._pool: Any = None  # one for all graphs: each result is copied before the next replay
        self._one_at_a_time = threading.Lock()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...] | None:
        """None where `state` is. Several threads may call; one runs at a time."""
        with self._one_at_a_time:
            return self._call(images)

    def _call(self, images: Tensor) -> tuple[Tensor, ...] | None:
        # The graphs are on their way before the host looks whether they are still right: it looks while they run.
        ready = all(self._key(part) in self._batches for part in images.split(LARGEST))
        early = self._all(images) if ready else None
        state = self._state(images)
        if state is not None and _same(state, self._captured_with):
            return self._all(images) if early is None else early
        self._batches.clear()
        self._pool = torch.cuda.graph_pool_handle() if images.is_cuda else None
        self._captured_with = [] if state is None else list(state)
        return None if state is None else self._all(images)

    def _all(self, images: Tensor) -> tuple[Tensor, ...]:
        results = [self._one(part) for part in images.split(LARGEST)]
        return results[0] if len(results) == 1 else tuple(torch.cat(r) for r in zip(*results, strict=True))

    def _one(self, images: Tensor) -> tuple[Tensor, ...]:
        key = self._key(images)
        if key not in self._batches:
            self._batches[key] = _Batch(self._run, images, key[0], self._pool)
        return self._batches[key](images)

    @staticmethod
    def _key(images: Tensor) -> tuple[Any, ...]:
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return 1 << (len(images) - 1).bit_length(), images.shape[1:], images.dtype, tf32


def _same(state: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(state) == len(before) and all(a is b for a, b in zip(state, before, strict=True))


class _Batch:
    """Room for a batch, and the graph that runs on it; the function itself where none could be captured."""

    def __init__(self, run: Run, images: Tensor, size: int, pool: Any) -> None:
        self._run = run
        self._images = images.new_zeros(size, *images.shape[1:])
        self._images[: len(images)] = images
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: tuple[Tensor, ...] = ()
        if images.is_cuda:
            self._graph = capture(self._fill_results, pool)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        self._images[: len(images)].copy_(images)  # what stood there before fills the rest
        if self._graph is None:
            self._fill_results()
        else:
            self._graph.replay()
        return tuple(result[: len(images)].clone() for result in self._results)

    def _fill_results(self) -> None:
        self._results = self._run(self._images)
