"""Files that are written whole or not at all, also when the power goes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moleflow_fast.errors import UserError


class ReadFailed(UserError):
    """Missing rights; names what was to be read."""


class WriteFailed(UserError, OSError):
    """A full disk, missing rights, a read-only file system; names what was being written."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """
    Raises:
        ReadFailed: in place of a PermissionError of the block, about `path` where that names no file.
    """
    try:
        yield
    except PermissionError as error:
        file = error.filename or path
        raise ReadFailed(f"{file} cannot be read ({error.strerror or error}): give this user the right to") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Any OSError of the block as one that names `path`.

    Raises:
        WriteFailed: in place of it.
    """
    try:
        yield
    except WriteFailed:
        raise
    except OSError as error:
        raise WriteFailed(f"{path} could not be written ({error.strerror or error})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well; a failure or a kill leaves `path` as it was.

    Content and name are on the disk when this returns, in this order: what is written next never outlives it.

    Raises:
        WriteFailed: in place of any OSError of the block.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            to_disk(temporary)
            os.replace(temporary, path)
            to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Delete temporary files that `replacing` of a killed process left, at any depth; those of living ones stay."""
    for file in directory.rglob(".*.tmp"):
        process = file.name.split(".")[-2]
        if process.isdecimal() and not _lives(int(process)):
            file.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 is a Ctrl-C: what was left stays
        return True
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=True) + "\n")


def to_disk(path: Path) -> None:
    """Wait until a file's content, or a directory's names, are on the disk."""
    if sys.platform == "win32" and path.is_dir():  # it has no way to wait for names
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
