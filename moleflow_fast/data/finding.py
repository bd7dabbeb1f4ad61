"""Which files of a folder are images: one rule for training and predicting, and an account of all the others."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from moleflow_fast.errors import shown

from .data_error import DataError
from .decoding import IMAGE_SUFFIXES
from .never_data import is_never_data, is_own_output

SYSTEM = "hidden or of the system"
OWN = "written by moleflow_fast (a run, pictures of predict)"
NO_DECODER = "in formats that are not read here: save them as PNG or JPEG"
NO_IMAGE = "without the ending of an image"
SPECIAL = "no regular files"
NOWHERE = "links that lead nowhere"
TAKEN = "links to folders that are taken already or hold this one"
UNLISTED = "folders that cannot be listed: let this user read them"

_NO_DECODER_SUFFIXES = frozenset(
    {
        ".heic", ".heif", ".hif", ".jxl", ".avif", ".webp", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf",
        ".raf", ".rw2", ".pef", ".raw", ".psd", ".svg", ".exr", ".hdr", ".dcm", ".npy", ".mp4", ".mov", ".avi", ".mkv",
    }
)  # fmt: skip
_NAMED = 3  # examples of each reason


@dataclass
class LeftOut:
    """Files and folders that are not used, by the reason, which follows their number in a sentence."""

    by_reason: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, reason: str, *paths: Path) -> None:
        if paths:
            self.by_reason.setdefault(reason, []).extend(paths)

    def update(self, other: LeftOut) -> None:
        for reason, paths in other.by_reason.items():
            known = set(self.by_reason.get(reason, ()))
            self.add(reason, *(path for path in paths if path not in known))

    def said(self, below: Path) -> list[str]:
        """One line for all of it, names from `below` on; none where nothing is left out."""
        if not self.by_reason:
            return []
        reasons = (
            f"{len(paths)} {reason} ({_examples(paths, below)})" for reason, paths in sorted(self.by_reason.items())
        )
        return [f"{shown(below)}: not used: {'; '.join(reasons)}"]


@dataclass
class Found:
    """Image files, sorted by path, and what is not taken."""

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """Those right in it, where no deeper one was looked into."""
    left_out: LeftOut = field(default_factory=LeftOut)


def find_images(folder: Path, deep: bool = True) -> Found:
    """The image files of a folder, by their endings in upper or lower case, sorted.

    Links are followed. Each folder is looked into once, and none that holds `folder`, so there is no end to no loop. A
    link with the ending of an image that leads nowhere counts as an image, which then cannot be read.

    Args:
        deep: look below sub-folders too; else they are listed.

    Raises:
        DataError: the folder itself cannot be listed.
    """
    return _Search(folder, deep).found()


def subfolder(folder: Path, name: str) -> Path | None:
    """The sub-folder of this name; where there is none, one whose name differs in upper and lower case alone."""
    if _is_folder(folder / name):
        return folder / name
    try:
        alike = sorted(entry for entry in os.listdir(folder) if entry.casefold() == name.casefold())
    except OSError:
        return None
    return next((folder / entry for entry in alike if _is_folder(folder / entry)), None)


class _Search:
    def __init__(self, top: Path, deep: bool) -> None:
        self._top = top
        self._deep = deep
        self._found = Found()
        self._folders = deque([top])
        self._links: deque[Path] = deque()  # behind real folders: their files are named by the shorter way
        self._seen = {_identity(parent) for parent in top.resolve().parents}

    def found(self) -> Found:
        while self._folders or self._links:
            place = self._folders.popleft() if self._folders else self._links.popleft()
            self._look_into(place)
        self._found.images.sort()
        self._found.folders.sort()
        return self._found

    def _look_into(self, place: Path) -> None:
        try:
            identity = _identity(place)
            entries = [] if identity in self._seen else _listed(place)
        except OSError as error:
            if place == self._top:
                why = f"cannot be listed ({error.strerror}); let this user read it"
                raise DataError(f"{shown(place)}: {why}") from error
            return self._found.left_out.add(UNLISTED, place)
        if identity in self._seen:
            return self._found.left_out.add(TAKEN, place)
        self._seen.add(identity)
        for entry in entries:
            self._take(entry, place / entry.name)
        return None

    def _take(self, entry: os.DirEntry[str], path: Path) -> None:
        if is_never_data(entry.name):
            return self._found.left_out.add(SYSTEM, path)
        if _is(entry.is_dir):
            return self._take_folder(entry, path)
        reason = _why_not(entry, path)
        if reason is None:
            return self._found.images.append(path)
        return self._found.left_out.add(reason, path)

    def _take_folder(self, entry: os.DirEntry[str], path: Path) -> None:
        if _is_own_output(path):
            return self._found.left_out.add(OWN, path)
        if not self._deep:
            return self._found.folders.append(path)
        return (self._links if entry.is_symlink() else self._folders).append(path)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is(asked: Callable[[], bool]) -> bool:
    """What an entry says of itself, without a look at the disk unless it is a link."""
    try:
        return asked()
    except OSError:  # a link to itself, or into a folder that this user may not look into
        return False


def _why_not(entry: os.DirEntry[str], path: Path) -> str | None:
    """Why a file is no image; None where it is one, as far as its name tells."""
    there = _is(entry.is_file)
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return None if there or entry.is_symlink() and not os.path.exists(path) else SPECIAL
    if not there and not os.path.exists(path):
        return NOWHERE
    return NO_DECODER if suffix in _NO_DECODER_SUFFIXES else NO_IMAGE


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # false where it cannot be asked, which Path.is_dir raises


def _is_own_output(path: Path) -> bool:
    try:
        return is_own_output(path)
    except OSError:  # it cannot be looked into, which is said when it is tried
        return False


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _examples(paths: Iterable[Path], below: Path) -> str:
    names = [shown(path.relative_to(below) if path.is_relative_to(below) else path) for path in paths]
    return ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])
