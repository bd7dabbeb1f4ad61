"""Deaths of a process, by its parent at a moment drawn at random or by its own hand at a chosen point of a write."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moleflow_fast.extractors.cache_files import EntryWriter
from moleflow_fast.system import tensor_file


class Suicide:
    """Ends this process with SIGKILL at event number `event` of those that writing passes through.

    Its last word, what it was doing, goes to `log`.
    """

    def __init__(self, event: int, log: Path) -> None:
        self.left = event
        self.log = log

    def install(self) -> None:
        """For the life of this process."""
        os.replace = self._around("rename", os.replace)
        os.fsync = self._around("fsync", os.fsync)
        tensor_file.save_file = self._half_written(tensor_file.save_file)
        EntryWriter.append = self._around("features", EntryWriter.append)  # type: ignore[method-assign]
        EntryWriter.finish = self._around("features' end", EntryWriter.finish)  # type: ignore[method-assign]

    def _around(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._event(f"before {what}")
            result = function(*args, **kwargs)
            self._event(f"after {what}")
            return result

        return call

    def _half_written(self, save_file: Callable[..., Any]) -> Callable[..., Any]:
        def save(tensors: Any, path: Path, metadata: Any = None) -> None:
            save_file(tensors, path, metadata)
            if self.left == 0:
                os.truncate(path, os.path.getsize(path) // 2)
            self._event("half a tensor file")

        return save

    def _event(self, what: str) -> None:
        self.left -= 1
        if self.left < 0:
            self.log.write_text(what)
            os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], int], log: Path) -> int:
    """Start `work` in a child of this process, which has imported all that it needs; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int, within: float) -> int | None:
    """Wait for a child: its return code, negative for a signal, or None where it lives on after so many seconds."""
    for _ in _ticks(within):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
    return None


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _ticks(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while True:
        yield
        if time.monotonic() >= end:
            return
        time.sleep(0.002)
