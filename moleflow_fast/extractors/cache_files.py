"""Feature files: one raw file and one JSON sidecar per data set, backbone and transform.

`KEY.features` holds patch features (N, H, W, D), then image features (N, D) in float32. `KEY.json` appears
last and describes it: an entry without a sidecar does not exist. `KEY.lock` is held while an entry is
written, opened or evicted. A `KEY.*.tmp` whose lock is free was left by a process that died.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moleflow_fast.system.locks import acquired, lock_file

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_open_keys: Counter[str] = Counter()  # entries mapped by this process: never evicted by it


class DamagedEntry(Exception):
    """A cache entry that must not be used."""


class StorageFailed(OSError):
    """The directory cannot take the features: full disk, missing rights, ..."""


@dataclass(frozen=True)
class Sidecar:
    """What KEY.json says about KEY.features."""

    version: int
    shape: list[int]  # N, H, W, D
    dtype: str
    patch_crc32: list[int]  # one per image
    image_crc32: int


class EntryWriter:
    """Writes the features of one data set in order; nothing is visible before `finish`."""

    def __init__(self, directory: Path, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._sidecar = Sidecar(FORMAT_VERSION, list(shape), _dtype_name(dtype), [], 0)
        self._final = directory / f"{key}.features"
        self._temporary = directory / f"{key}.{os.getpid()}.tmp"
        self._image_features: list[Tensor] = []
        with storage_errors():
            self._file = self._temporary.open("wb")

    def append(self, patches: Tensor, image_features: Tensor) -> None:
        """Add images: (n, H, W, D) in the dtype of the entry, and (n, D)."""
        rows = _bytes_of(patches).reshape(len(patches), -1)
        self._sidecar.patch_crc32.extend(_crc32(row) for row in rows)
        with storage_errors():
            self._file.write(rows.data)
        self._image_features.append(image_features.cpu())

    def finish(self) -> None:
        """Make the entry visible."""
        tail = _bytes_of(torch.cat(self._image_features).float())
        sidecar = asdict(self._sidecar) | {"image_crc32": _crc32(tail)}
        with storage_errors():
            self._file.write(tail.data)
            self._file.close()
            self._final.with_suffix(".json").unlink(missing_ok=True)  # of a damaged entry in its place
            os.replace(self._temporary, self._final)
            self._temporary.write_text(json.dumps(sidecar))
            os.replace(self._temporary, self._final.with_suffix(".json"))

    def discard(self) -> None:
        """Leave nothing behind; does nothing after `finish`."""
        with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def open_entry(directory: Path, key: str, trusted: bool = False) -> tuple[Tensor, Tensor] | None:
    """Map the patch features (N, H, W, D), load the image features (N, D); None where there is no entry.

    Args:
        trusted: written by this process a moment ago; else every byte is checked against the sidecar.

    Raises:
        DamagedEntry: the entry is there but not whole.
    """
    sidecar_path, path = directory / f"{key}.json", directory / f"{key}.features"
    if not sidecar_path.exists():
        return None
    try:
        sidecar = Sidecar(**json.loads(sidecar_path.read_text()))
        dtype = getattr(torch, sidecar.dtype)
        patches_end = int(np.prod(sidecar.shape)) * dtype.itemsize
        total = patches_end + sidecar.shape[0] * sidecar.shape[3] * 4
        if path.stat().st_size != total:
            raise DamagedEntry(f"{path.stat().st_size} bytes instead of {total}")
        raw = np.memmap(path, np.uint8, mode="c")  # copy-on-write, so that torch takes it as writable
        if not trusted:
            _check_sums(raw, patches_end, sidecar)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DamagedEntry(str(error)) from error
    now_used(directory, key)
    patches = torch.from_numpy(raw[:patches_end]).view(dtype).reshape(sidecar.shape)
    image_features = torch.from_numpy(np.array(raw[patches_end:])).view(torch.float32)
    return patches, image_features.reshape(sidecar.shape[0], sidecar.shape[3])


def now_used(directory: Path, key: str) -> None:
    """Note the time of use, which the order of eviction goes by."""
    with contextlib.suppress(OSError):  # a directory without write access still serves
        os.utime(directory / f"{key}.json")


def remove_entry(directory: Path, key: str) -> None:
    """Delete an entry, sidecar first; a process that has it mapped goes on undisturbed."""
    for suffix in ("json", "features"):
        (directory / f"{key}.{suffix}").unlink(missing_ok=True)


def make_room(directory: Path, incoming: int, max_bytes: int) -> bool:
    """Evict least recently used entries until `incoming` more bytes fit; False where they cannot.

    Entries that this process has open, or that any process is writing or opening, stay.
    """
    if incoming > max_bytes:
        return False
    sizes = {path.stem: path.stat().st_size for path in directory.glob("*.features")}
    for key in sorted(sizes, key=lambda key: _last_use(directory, key)):
        if sum(sizes.values()) + incoming <= max_bytes:
            break
        if key not in _open_keys and _evict(directory, key):
            del sizes[key]
    return sum(sizes.values()) + incoming <= max_bytes


def clean_leftovers(directory: Path) -> None:
    """Remove temporary files of processes that died while writing."""
    for path in directory.glob("*.tmp"):
        key = path.name.split(".")[0]
        with lock(directory, key, wait=False) as locked:
            if locked:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(directory: Path, key: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of an entry against other processes and threads; yields False where it is taken.

    The system frees it when its process ends, however that happens.
    """
    path = directory / f"{key}.lock"
    held = lock_file(path)
    with storage_errors():
        taken = acquired(held, patience=0)
        if wait and not taken:
            logger.info("another process works on %s: waiting for it", path.stem)
            taken = acquired(held, patience=math.inf)
    if not taken:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(PermissionError):  # Windows keeps the name of an open file
            path.unlink(missing_ok=True)
        held.release()


def keep_open(key: str) -> None:
    """Protect an entry from eviction by this process until as many `let_go` follow."""
    _open_keys[key] += 1


def let_go(key: str) -> None:
    """Undo one `keep_open`."""
    _open_keys[key] -= 1
    if not _open_keys[key]:
        del _open_keys[key]


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Tell failures of the cache directory from failures to read an image, which are OSErrors too."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(*error.args) from error


def _evict(directory: Path, key: str) -> bool:
    with lock(directory, key, wait=False) as locked:
        if locked:
            remove_entry(directory, key)
        return locked


def _last_use(directory: Path, key: str) -> float:
    sidecar = directory / f"{key}.json"
    return sidecar.stat().st_mtime if sidecar.exists() else 0.0


def _check_sums(raw: np.ndarray, patches_end: int, sidecar: Sidecar) -> None:
    if _crc32(raw[patches_end:]) != sidecar.image_crc32:
        raise DamagedEntry("checksum of the image features differs")
    rows = raw[:patches_end].reshape(sidecar.shape[0], -1)
    with ThreadPoolExecutor() as pool:  # crc32 runs outside the interpreter lock
        sums = list(pool.map(_crc32, rows))
    wrong = [i for i, (a, b) in enumerate(zip(sums, sidecar.patch_crc32, strict=True)) if a != b]
    if wrong:
        raise DamagedEntry(f"checksum of image {wrong[0]} differs")


def _crc32(values: np.ndarray) -> int:
    return zlib.crc32(values.data)


def _bytes_of(values: Tensor) -> np.ndarray:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
