"""Decoding, device work and the caller's own work at the same time, in order, with bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


def pipelined(
    items: Iterable[A],
    decode: Callable[[A], B],
    score: Callable[[list[B]], list[C]],
    finish: Callable[[B, C], D],
    batch_size: int,
    workers: int,
) -> Generator[D, None, None]:
    """finish(b, c) of every item in order, where b = decode(item) and c comes from score(batch of b).

    `items` is read in a thread of its own, never further ahead of the caller than three batches and the workers;
    `decode` and `finish` run in `workers` threads, `score` in one. Whatever the caller does not take holds the others
    up. An exception of any of them is raised here, after the results before it.
    """
    decoded: _Channel[Future[B]] = _Channel(batch_size + workers)
    finished: _Channel[Future[D]] = _Channel(batch_size)
    problems: list[BaseException] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="moleflow-decode")

    def feed() -> None:
        try:
            for item in items:
                if not decoded.put(pool.submit(decode, item)):
                    return
        except BaseException as error:  # the caller's iterator may raise anything; it belongs in the caller's thread
            problems.append(error)
        finally:
            decoded.end()

    def work() -> None:
        try:
            for batch in _batches(decoded, batch_size):
                inputs = [future.result() for future in batch]
                for one, scored in zip(inputs, score(inputs), strict=True):
                    if not finished.put(pool.submit(finish, one, scored)):
                        return
        except BaseException as error:
            problems.append(error)
        finally:
            finished.end()
            decoded.close()

    for task in (feed, work):
        # Daemons: the caller's iterator may wait for a camera forever, and must not keep the program from ending.
        threading.Thread(target=task, daemon=True, name=f"moleflow-{task.__name__}").start()
    try:
        for future in finished:
            yield future.result()
        if problems:
            raise problems[0]
    finally:
        decoded.close()
        finished.close()
        pool.shutdown(wait=False, cancel_futures=True)


class _Channel(Generic[A]):
    """A queue with room for so many items, which either side may shut."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[A] = deque()
        self._ended = False
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: A) -> bool:
        """Wait for room; False if nobody will take it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._room)
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be taken."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[A]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._ended or bool(self._items))
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


def _batches(items: Iterable[A], size: int) -> Iterator[list[A]]:
    batch: list[A] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
