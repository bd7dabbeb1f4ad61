"""Named tensors in one safetensors file, whole or absent, with a SHA-256 checksum to tell damage by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moleflow_fast.errors import UserError
from moleflow_fast.system.files import WriteFailed, reading, replacing


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another configuration."""


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors, of any device and layout; returns the file's SHA-256.

    Raises:
        WriteFailed: the file cannot be written; one that was there is left as it was.
    """
    ours = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    with replacing(file) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask says; safetensors makes files that no other user may read
            save_file(ours, temporary, dict(metadata) if metadata else None)
            temporary.chmod(mode)
        except SafetensorError as error:  # which is how it tells of a full disk
            raise WriteFailed(f"{file} could not be written ({error})") from error
        temporary.chmod(mode)  # the library gives the owner alone rights; a detector may run under another user
        return sha256(temporary)


def read_tensors(file: Path, checksum: str | None, remedy: str) -> dict[str, Tensor]:
    """The tensors of a file.

    Args:
        checksum: what its SHA-256 must be; None where that is not known.
        remedy: what to do about a damaged one, for the message.

    Raises:
        CheckpointError: the file is not what was written.
    """
    try:
        with reading(file):
            if checksum is not None and sha256(file) != checksum:
                raise CheckpointError(f"{file} is damaged (its SHA-256 is not the one that was noted); {remedy}")
            return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); {remedy}") from error


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
