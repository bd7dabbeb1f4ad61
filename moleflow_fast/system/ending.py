"""What must have stopped before the interpreter ends.

At exit Python stops a daemon thread where it next asks for the interpreter's lock. Inside torch that is in the middle
of C++, and the process ends with SIGABRT. Threads that Python waits for would keep a program from ending for as long as
a camera has no frame. So ours are daemons that are told to stop at exit, and waited for.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable

from moleflow_fast.errors import UserError

_PATIENCE = 1.0  # seconds at exit for a thread that may be in the caller's code, which may never come back


class Crew:
    """Threads that work together, and stop together.

    Args:
        stop: tells all of them to; they come back from whatever they wait for.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._process = os.getpid()
        self._threads: list[tuple[threading.Thread, float | None]] = []
        self.stopped_at_exit = False
        if not _state.ending:
            _crews.add(self)

    def start(self, work: Callable[[], None], name: str, patience: float | None = None) -> threading.Thread:
        """
        Args:
            patience: how long the thread is waited for at exit, seconds; None for as long as it takes.

        Raises:
            RuntimeError: the interpreter is ending, and starts no thread any more.
        """
        if _state.ending:
            raise RuntimeError("can't start a thread: the interpreter is ending")
        thread = threading.Thread(target=self._run, args=(work,), daemon=True, name=name)
        thread.start()
        self._threads.append((thread, patience))
        return thread

    def start_callers(self, work: Callable[[], None], name: str) -> None:
        """As `start`, for a thread that runs code of the caller's."""
        self.start(work, name, _PATIENCE)

    def require_own_process(self) -> None:
        """
        Raises:
            UserError: this one was forked from that of the threads, which are not here.
        """
        if os.getpid() != self._process:
            raise UserError("a stream does not survive a fork: start it in the process that takes its results")

    def stop(self) -> None:
        """Does not wait. A forked process has none of the threads, and their locks may be held for good."""
        if os.getpid() == self._process:
            self._stop()

    def end(self) -> None:
        self.stopped_at_exit = True
        self.stop()

    def join(self) -> None:
        for thread, patience in self._threads:
            if thread is not threading.current_thread():
                thread.join(patience)

    def _run(self, work: Callable[[], None]) -> None:
        """A method, so that a crew is there as long as any of its threads."""
        work()


def lock_for_torch() -> threading.RLock:
    """A lock for work in torch: once it is free at exit, no thread but the last one gets it any more.

    A daemon thread of the caller's then waits for it, where it would be stopped in the middle of the work.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


class _State:
    ending = False


_state = _State()
_crews: weakref.WeakSet[Crew] = weakref.WeakSet()
_locks: weakref.WeakSet[threading.RLock] = weakref.WeakSet()


def _end_all() -> None:
    _state.ending = True
    crews = list(_crews)
    for crew in crews:
        crew.end()
    for crew in crews:
        crew.join()
    for lock in list(_locks):
        lock.acquire()


def _forget_parents() -> None:
    """A forked process has none of its parent's threads, and its locks may never be free."""
    _crews.clear()
    _locks.clear()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
