"""Decoding, device work and the caller's own work at the same time, in order, with bounded memory."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

from moleflow_fast.system.ending import Crew

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
    up. An exception of any of them is raised here, after the results before it. The threads end with the generator:
    when it is exhausted, closed or dropped, and at exit where it is still there.
    """
    decoded: _Channel[Future[B]] = _Channel(batch_size + workers)
    finished: _Channel[Future[D]] = _Channel(batch_size)
    calls = _Calls()
    problems: list[BaseException] = []

    def feed() -> None:
        try:
            for item in items:
                if not decoded.put(calls.submit(decode, item)):
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
                    if not finished.put(calls.submit(finish, one, scored)):
                        return
        except BaseException as error:
            problems.append(error)
        finally:
            finished.end()
            decoded.close()

    def stop() -> None:
        decoded.close()
        finished.close()
        calls.close()

    crew = Crew(stop)
    try:
        try:
            for number in range(workers):
                crew.start(calls.work, f"moleflow-decode-{number}")
            crew.start(work, "moleflow-work")
            crew.start_callers(feed, "moleflow-feed")  # last: until then nothing was taken from `items`
        except RuntimeError:
            yield from _one_after_another(items, decode, score, finish, batch_size)
            return
        for future in finished:
            yield future.result()
            crew.require_own_process()
        if crew.stopped_at_exit:
            raise SystemExit  # in a daemon thread that still takes results: it ends without a word
        if problems:
            raise problems[0]
    finally:
        crew.stop()


def _one_after_another(
    items: Iterable[A],
    decode: Callable[[A], B],
    score: Callable[[list[B]], list[C]],
    finish: Callable[[B, C], D],
    batch_size: int,
) -> Iterator[D]:
    """In the caller's thread: while the interpreter ends it starts no others."""
    for batch in _batches(map(decode, items), batch_size):
        yield from map(finish, batch, score(batch))


class _Calls:
    """Calls to be made by whoever does `work`."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._closed = False

    def submit(self, function: Callable[..., A], *arguments: Any) -> Future[A]:
        future: Future[A] = Future()
        self._waiting.put((future, partial(function, *arguments)))
        return future

    def work(self) -> None:
        """Make calls until `close`."""
        while (waiting := self._waiting.get()) is not None:
            self._make(*waiting)
            del waiting  # not kept while there is nothing to do
        self._waiting.put(None)  # for the next one

    def close(self) -> None:
        """Calls that were not made yet are cancelled."""
        self._closed = True
        self._waiting.put(None)

    def _make(self, future: Future[Any], call: Callable[[], Any]) -> None:
        if self._closed:
            future.cancel()
            return
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)


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
