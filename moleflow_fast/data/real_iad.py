"""Real-IAD: a JSON file for each class, which names the images of both splits, with its folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .data_error import DataError
from .layouts import ClassFiles
from .rows import Row, class_files, entry, first_file, read_json

_FOLDERS = ("realiad_jsons/realiad_jsons", "realiad_jsons", ".", "..", "../realiad_jsons")


def find(root: Path, class_name: str, train: bool) -> ClassFiles:
    """The files of a class."""
    file = _tables(root).get(class_name)
    if file is None:
        known = ", ".join(classes(root)) or "nothing"
        return ClassFiles(problems=[f"{root}: no {class_name}.json in it or in realiad_jsons; there are {known}"])
    return class_files(list(_rows(file, root, class_name)), class_name, train, file)


def classes(root: Path) -> list[str]:
    """Those with a JSON file, by name."""
    return sorted(_tables(root))


def _tables(root: Path) -> dict[str, Path]:
    """Of each class with a folder of images; those of the first place that has some."""
    for place in _FOLDERS:
        found = {file.stem: file for file in sorted((root / place).glob("*.json")) if _images(root, file.stem)}
        if found:
            return found
    return {}


def _images(root: Path, class_name: str) -> Path | None:
    places = (root / class_name, *sorted(root.glob(f"realiad_*/{class_name}")))
    return next((place for place in places if place.is_dir()), None)


def _rows(file: Path, root: Path, class_name: str) -> Iterator[Row]:
    content = read_json(file)
    meta = entry(content, "meta", dict, str(file))
    normal = meta.get("normal_class") or "OK"
    folder = _images(root, class_name)
    if folder is None:
        raise DataError(f"{root / class_name}: missing, the images of {file}")
    for split in ("train", "test"):
        for number, record in enumerate(entry(content, split, list, str(file))):
            where = f"{file}: {split}[{number}]"
            label = entry(record, "anomaly_class", str, where)
            mask = entry(record, "mask_path", str, where) if record.get("mask_path") else None
            path = _path(folder, str(meta.get("prefix") or ""), entry(record, "image_path", str, where))
            drawn = None if mask is None else _path(folder, str(meta.get("prefix") or ""), mask)
            yield Row(where, class_name, split, path, "good" if label == normal else label, drawn)


def _path(folder: Path, prefix: str, name: str) -> Path:
    return first_file([folder / name, folder.parent / prefix / name, folder.parent / name])
