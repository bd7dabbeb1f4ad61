"""Files that are written whole or not at all, also when the power goes."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from moleflow_fast.errors import UserError

PATIENCE = 10.0  # seconds: processes that decode for a killed run outlive it by some, and hold its locks


class InUse(UserError):
    """Another process works on the same thing."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well; a failure or a kill leaves `path` as it was.

    Content and name are on the disk when this returns, in this order: what is written next never outlives it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=True) + "\n")


def to_disk(path: Path) -> None:
    """Wait until a file's content, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(path: Path, what: str, patience: float | None = None) -> Iterator[None]:
    """Hold the lock file `path`; it is let go when the process ends, however that happens.

    Args:
        what: names the thing in the message.
        patience: seconds to wait for it; `PATIENCE` if left out.

    Raises:
        InUse: another process holds it still.
    """
    give_up = time.monotonic() + (PATIENCE if patience is None else patience)
    with path.open("w") as file:
        while not _locked(file):
            if time.monotonic() > give_up:
                raise InUse(f"{what} is in use by another process: wait for it, or end it")
            time.sleep(0.1)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
