"""What a run reads of its image files: by processes of its own, and each file once where there is memory for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moleflow_fast.system.memory import free_memory

from .data_error import DataError
from .pool import DecodingProcesses, InThisProcess, Pending, Pool, Problems, processes_here
from .requests import FileCheck, Mask, Note, Picture, bytes_of, placed

# Of the memory that is free when a run starts. The 5,354 images of MVTec AD are 0.8 GB at 224 px.
_SHARE = 0.25
_BATCHES_AHEAD = 2  # of each process


class Decoder:
    """Decodes files, and keeps what it saw when it checked them, or read ahead, until that is forgotten.

    Args:
        num_workers: processes that decode, started when first needed; 0 decodes in the caller's thread, and so
            does every number where the system is not Linux.
    """

    def __init__(self, num_workers: int = 0) -> None:
        self._processes = processes_here(num_workers)
        self._pool: Pool | None = None
        self._starting = threading.Lock()
        self._kept: dict[Picture | Mask, _Kept] = {}
        self._room = int(_SHARE * free_memory())

    def start(self) -> Pool:
        """Have the processes started by now, while the caller has other things to do."""
        with self._starting:
            if self._pool is None:
                self._pool = DecodingProcesses(self._processes) if self._processes else InThisProcess()
            return self._pool

    def close(self) -> None:
        """End the processes and forget everything."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self._kept.clear()

    def has_room_for(self, checks: Sequence[FileCheck]) -> bool:
        """Whether what they see can be kept beside what was to be kept so far."""
        return sum(map(bytes_of, checks)) <= self._room

    def check(self, checks: Sequence[FileCheck]) -> Callable[[], list[str]]:
        """Start to read files; the function that is returned waits, and says what is wrong with them,
        or odd (`Note`).

        Whoever asks for pixels that a check will see gets them as soon as it has.

        Raises:
            DecodingFailed: by the function, see `Pending.result`.
        """
        pending = self.start().submit(checks)
        for index, check in enumerate(checks):
            for start, request in placed(check.pixels):
                self._keep(request, _Kept(pending, index, start, request))
        return lambda: [problem for found in pending.result()[1] for problem in found]

    def read_ahead(self, pictures: Sequence[Picture]) -> None:
        """Start to read what will soon be asked for, as far as there are processes and room for it."""
        new = [picture for picture in pictures if picture not in self._kept]
        if self._processes and new:
            some = new[: self._room // bytes_of(new[0])]
            pending = self.start().submit(some)
            for index, request in enumerate(some):
                self._keep(request, _Kept(pending, index, 0, request))

    def begin(self, requests: Sequence[Picture | Mask]) -> Callable[[], np.ndarray]:
        """Start to read; the function that is returned, for any thread, waits as `pixels` does.

        What is kept of the requests may be forgotten before it is called.
        """
        return self._begun(requests).pixels

    def pixels(self, batches: Iterable[Sequence[Picture | Mask]]) -> Iterator[np.ndarray]:
        """uint8 (n, *shape) of each batch of requests of one shape, in order; batches are read ahead.

        Raises:
            DataError: a file cannot be read.
            DecodingFailed: see `Pending.result`.
        """
        ahead: deque[_Batch] = deque()
        for batch in batches:
            ahead.append(self._begun(batch))
            if len(ahead) > _BATCHES_AHEAD * self._processes:
                yield ahead.popleft().pixels()
        while ahead:
            yield ahead.popleft().pixels()

    def forget(self, requests: Iterable[Picture | Mask]) -> None:
        """Free what was kept of these."""
        for request in requests:
            if self._kept.pop(request, None) is not None:
                self._room += bytes_of(request)

    def _keep(self, request: Picture | Mask, kept: _Kept) -> None:
        self._kept[request] = kept
        self._room -= bytes_of(request)

    def _begun(self, batch: Sequence[Picture | Mask]) -> _Batch:
        kept = [self._kept[request] for request in batch if request in self._kept]
        return _KeptBatch(kept) if len(kept) == len(batch) else _ReadBatch(batch, self.start().submit(batch))


class _Batch(Protocol):
    def pixels(self) -> np.ndarray:
        """(n, *shape)"""


@dataclass(frozen=True)
class _ReadBatch:
    requests: Sequence[Picture | Mask]
    pending: Pending

    def pixels(self) -> np.ndarray:
        pixels, problems = self.pending.result()
        _raise_first(problems)
        return pixels.reshape(len(self.requests), *self.requests[0].shape)


@dataclass(frozen=True)
class _KeptBatch:
    kept: Sequence[_Kept]

    def pixels(self) -> np.ndarray:
        return np.stack([one.pixels() for one in self.kept])


@dataclass(frozen=True)
class _Kept:
    """What is seen of a file, from byte `start` of the answer to a request on."""

    pending: Pending
    index: int
    start: int
    request: Picture | Mask

    def pixels(self) -> np.ndarray:
        pixels, problems = self.pending.one(self.index)
        _raise_first([problems])
        return pixels[self.start : self.start + bytes_of(self.request)].reshape(self.request.shape)


def _raise_first(problems: Problems) -> None:
    for found in problems:
        for problem in found:
            if not isinstance(problem, Note):
                raise DataError(problem)
