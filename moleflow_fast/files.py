"""Files that are written whole or not at all, also when the power goes."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moleflow_fast.errors import UserError

logger = logging.getLogger(__name__)


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
def alone(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; it is let go when the process ends, however that happens.

    Raises:
        InUse: another process holds it, and `wait` is False; `what` names the thing in the message.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise InUse(f"{what} is in use by another process: wait for it, or end it") from error
            logger.warning("%s is in use by another process: waiting for it to end", what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
