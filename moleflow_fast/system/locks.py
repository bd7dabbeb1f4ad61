"""Lock files. The system lets go of one when its process ends, however that happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from moleflow_fast.errors import UserError
from moleflow_fast.system.files import writing

logger = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds: processes that decode for a killed run outlive it by some, and hold its locks
_MODE = 0o664  # whoever shares a folder with its group shares its locks


class InUse(UserError):
    """Another process works on the same thing."""


def lock_file(path: Path) -> FileLock:
    """One thread acquires it, and any may release it."""
    return FileLock(path, mode=_MODE, thread_local=False)


def acquired(lock: FileLock, patience: float) -> bool:
    """Whether a lock could be had within so many seconds, `math.inf` for as long as it takes."""
    try:
        # Without a limit filelock refuses to wait for what this thread took and another is about to let go of.
        lock.acquire(timeout=min(patience, threading.TIMEOUT_MAX))
    except Timeout:
        return False
    return True


@contextmanager
def alone(path: Path, what: str, patience: float | None = None) -> Iterator[None]:
    """Hold the lock file `path`.

    Args:
        what: names the thing in the message.
        patience: seconds to wait for it, `math.inf` for as long as it takes; `PATIENCE` if left out.

    Raises:
        InUse: another process holds it still.
        WriteFailed: the lock file cannot be made.
    """
    lock = lock_file(path)
    with writing(path):
        if not acquired(lock, patience=0):
            logger.warning("%s is in use by another process: waiting for it to end", what)
            if not acquired(lock, PATIENCE if patience is None else patience):
                raise InUse(f"{what} is in use by another process: wait for it, or end it")
    try:
        yield
    finally:
        lock.release()
