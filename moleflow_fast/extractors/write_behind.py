"""A cache entry written by a thread while its features are already in use."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor

from moleflow_fast.system.ending import Crew

from .cache_files import EntryWriter

# Of host memory that a slow disk can hold up: 16 batches of 16 x 28 x 28 x 256 in fp32 are 0.2 GB.
_BATCHES_IN_HAND = 16


class WriteBehind:
    """Takes the features of a data set in order, and writes them with their checksums.

    Args:
        writer: of the entry.
        held: what is let go of once the entry is there or given up: its lock.
        done: called by the thread with None once the entry is there, or with what kept it from being written.
    """

    def __init__(self, writer: EntryWriter, held: ExitStack, done: Callable[[Exception | None], None]) -> None:
        self._writer = writer
        self._held = held
        self._done = done
        self._abandoned = self._complete = False
        self._batches: queue.Queue[tuple[Tensor, Tensor] | None] = queue.Queue(_BATCHES_IN_HAND)
        # A process that ends has the entry written first, or given up where its features never came.
        self._thread = Crew(self._give_up).start(self._work, "moleflow-cache")

    def append(self, patches: Tensor, image_features: Tensor) -> None:
        """Batches in host memory that nobody writes to any more; waits while too many are in hand."""
        self._batches.put((patches, image_features))

    def finish(self) -> None:
        """All batches were appended; does not wait."""
        self._complete = True
        self._batches.put(None)

    def abandon(self) -> None:
        """Leave nothing behind, wait for that."""
        self._give_up()
        self._thread.join()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until the entry is there or given up."""
        self._thread.join()

    def _give_up(self) -> None:
        if not self._complete:
            self._abandoned = True
            self._batches.put(None)

    def _work(self) -> None:
        with self._held:
            failure = self._written()
            self._writer.discard()
            if not self._abandoned:
                self._done(failure)

    def _written(self) -> Exception | None:
        """Whatever goes wrong, all batches are taken: the run has them, and must not wait for this thread."""
        failure = None
        while (batch := self._batches.get()) is not None:
            try:
                if failure is None and not self._abandoned:
                    self._writer.append(*batch)
            except Exception as error:
                failure = error
            del batch
        if failure is not None or self._abandoned:
            return failure
        try:
            self._writer.finish()
        except Exception as error:
            return error
        return None
