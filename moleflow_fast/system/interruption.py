"""SIGINT and SIGTERM: the first ends a run where it can be gone on from, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to end by a signal, and has ended where it can be gone on from."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number  # as a shell has it


class _State:
    """One for the process, as signals are."""

    asked: int | None = None  # the first signal
    where: str | None = None  # it ends, if not at once


_state = _State()


@contextmanager
def ends_cleanly() -> Iterator[None]:
    """In the block the first signal raises `Interrupted`, at once or where the block it is in can be left.

    A signal that is ignored, as SIGINT is in a shell's background, stays so. Outside of the main thread, where Python
    handles no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _on_signal) for number in heeded}
    _state.asked, _state.where = None, None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.asked = None


@contextmanager
def end_waits(where: str) -> Iterator[None]:
    """In the block a first signal waits: for whoever looks at `asked_to_end`, or for the end of the block.

    Args:
        where: tells who sent it how long, e.g. "after this epoch"; "" for a block that is over at once.
    """
    _state.where = where
    try:
        yield
    finally:
        _state.where = None
    if _state.asked is not None:
        raise Interrupted(_state.asked)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Undo at the end of the block what a library does to the handlers of `ends_cleanly`."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    for number, handler in before.items():
        if handler is _on_signal:
            signal.signal(number, handler)


def asked_to_end() -> int | None:
    """The signal that asked for it."""
    return _state.asked


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _state.asked is not None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _state.asked = number
    if _state.where is None:
        raise Interrupted(number)
    if not _state.where:
        return
    # Not print: the signal may have come in the middle of one.
    text = f"{signal.Signals(number).name}: the run ends {_state.where}; once more, and it ends at once\n"
    os.write(2, text.encode())
