"""What lists of images say, whatever their format, as the files of a class."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data_error import DataError
from .drawn_mask import DrawnMask
from .finding import find_images
from .layouts import GOOD, ClassFiles, Sample, is_normal_name

_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
_KINDS = {str: "text", dict: "an object", list: "a list", int: "a number"}


@dataclass(frozen=True)
class Row:
    """One image of a list: `where` says file and field, `label` is that of normal images or the name of a defect."""

    where: str
    class_name: str
    split: str
    image: Path
    label: str
    mask: Path | DrawnMask | None = None


def files_in_folders(
    root: Path,
    class_name: str,
    train: bool,
    lists: Callable[[Path], Sequence[Path]],
    rows: Callable[[Path, Path], Iterable[Row]],
) -> ClassFiles:
    """The files of a class whose folder, or `root` itself under its own name, has lists of its images.

    Args:
        lists: those of a folder.
        rows: of one of them, in its folder.
    """
    folder = root if lists(root) else root / class_name
    return class_files([row for file in lists(folder) for row in rows(file, folder)], class_name, train, folder)


def classes_in_folders(root: Path, lists: Callable[[Path], Sequence[Path]]) -> list[str]:
    """Folders with lists of images, by name; the root's own name where it has them itself."""
    if not root.is_dir():
        return []
    if lists(root):
        return [root.resolve().name]
    return [place.name for place in find_images(root, deep=False).folders if lists(place)]


def class_files(rows: Sequence[Row], class_name: str, train: bool, where: Path) -> ClassFiles:
    """The images of a class in one split. A class of which no mask is named has image labels only."""
    found = ClassFiles()
    own = [row for row in rows if row.class_name == class_name]
    if not own:
        known = ", ".join(sorted({row.class_name for row in rows})) or "nothing"
        found.problems.append(f"{where}: no images of class {class_name!r}; it has {known}")
    found.has_masks = any(row.mask is not None for row in own)
    for row in own:
        if is_training(row.split, row.where) == train:
            _add(found, row, train)
    if own and train and not found.samples:
        found.problems.append(f"{where}: no normal training images of class {class_name!r}; give some the split train")
    return found


def _add(found: ClassFiles, row: Row, train: bool) -> None:
    normal = is_normal_name(row.label)
    if train and not normal:
        return found.left_out.add("defective in the training split, not trained on", row.image)
    if not row.image.is_file():
        found.problems.append(f"{row.where}: its image {row.image} is missing; give its path from the list's folder")
    if isinstance(row.mask, Path) and not normal and not row.mask.is_file():
        found.problems.append(f"{row.where}: its mask {row.mask} is missing; give its path from the list's folder")
    if not normal and found.has_masks and row.mask is None:
        found.problems.append(f"{row.where}: {row.image} is defective and has no mask, though others have; add it")
    kind = GOOD if normal else row.label
    found.samples.append(Sample(row.image, None if normal else row.mask, int(not normal), kind, row.class_name))
    return None


def is_training(split: str, where: str) -> bool:
    """
    Raises:
        DataError: a split of another name.
    """
    name = split.strip().casefold()
    if name not in (*_TRAIN, *_TEST):
        raise DataError(f"{where}: split {split!r} is neither train nor test; say which it is")
    return name in _TRAIN


def split_in(names: Iterable[str]) -> str:
    """The split that a file's or folder's name tells; "" where none does."""
    for name in names:
        words = set("".join(c if c.isalpha() else " " for c in name.casefold()).split())
        if words & {*_TRAIN}:
            return "train"
        if words & {*_TEST}:
            return "test"
    return ""


def first_file(candidates: Sequence[Path]) -> Path:
    """The first that is there, or the first of all, which is then reported missing."""
    return next((path for path in candidates if path.is_file()), candidates[0])


def read_json(file: Path) -> Any:
    """
    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}); export it again") from error


def entry(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """What a record holds under a name.

    Raises:
        DataError: nothing, or something of another kind.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(_KINDS[one] for one in kinds)
        raise DataError(f"{where}: {name} must be {wanted}, it is {json.dumps(value)[:40]}; export the file again")
    return value
