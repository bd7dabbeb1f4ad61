"""What a run reads of its image files: by processes of its own, and each file once where there is memory for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from moleflow_fast.memory import free_memory

from .errors import DataError
from .pool import DecodingProcesses, InThisProcess, Pending, Pool
from .requests import FileCheck, Mask, Picture, bytes_of, placed

# Of the memory that is free when a run starts. The 5,354 images of MVTec AD are 0.8 GB at 224 px.
_SHARE = 0.25
_BATCHES_AHEAD = 2  # of each process


class Decoder:
    """Decodes files, and keeps what it saw when it checked them until that is forgotten.

    Args:
        num_workers: processes that decode, started when first needed; 0 decodes in the caller's thread.
    """

    def __init__(self, num_workers: int = 0) -> None:
        self._processes = num_workers
        self._pool: Pool | None = None
        self._starting = threading.Lock()
        self._kept: dict[Picture | Mask, np.ndarray] = {}
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
        """Start to read files; the function that is returned waits, and says what is wrong with them.

        Raises:
            DecodingFailed: by the function, see `Pending.result`.
        """
        self._room -= sum(map(bytes_of, checks))
        pending = self.start().submit(checks)

        def finish() -> list[str]:
            pixels, problems = pending.result()
            self._keep(checks, pixels)
            return [problem for found in problems for problem in found]

        return finish

    def pixels(self, batches: Iterable[Sequence[Picture | Mask]]) -> Iterator[np.ndarray]:
        """uint8 (n, *shape) of each batch of requests of one shape, in order; batches are read ahead.

        Raises:
            DataError: a file cannot be read.
            DecodingFailed: see `Pending.result`.
        """
        ahead: deque[tuple[Sequence[Picture | Mask], Pending | list[np.ndarray]]] = deque()
        for batch in batches:
            ahead.append((batch, self._begun(batch)))
            if len(ahead) > _BATCHES_AHEAD * self._processes:
                yield _finished(*ahead.popleft())
        while ahead:
            yield _finished(*ahead.popleft())

    def forget(self, requests: Iterable[Picture | Mask]) -> None:
        """Free what was kept of these."""
        for request in requests:
            self._kept.pop(request, None)

    def _begun(self, batch: Sequence[Picture | Mask]) -> Pending | list[np.ndarray]:
        kept = [self._kept[request] for request in batch if request in self._kept]
        return kept if len(kept) == len(batch) else self.start().submit(batch)

    def _keep(self, checks: Sequence[FileCheck], pixels: np.ndarray) -> None:
        seen = [request for check in checks for request in check.pixels]
        for start, request in placed(seen):
            self._kept[request] = pixels[start : start + bytes_of(request)].reshape(request.shape)


def _finished(batch: Sequence[Picture | Mask], source: Pending | list[np.ndarray]) -> np.ndarray:
    if isinstance(source, list):
        return np.stack(source)
    pixels, problems = source.result()
    for found in problems:
        if found:
            raise DataError(found[0])
    return pixels.reshape(len(batch), *batch[0].shape)
