"""Images of a Datumaro project: annotations/<subset>.json, images/<subset>/..., defects as masks or polygons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from .data_error import DataError
from .drawn_mask import drawn_mask
from .layouts import GOOD, ClassFiles, is_normal_name
from .rows import Row, classes_in_folders, entry, files_in_folders, first_file, read_json, split_in

_SHAPES = ("mask", "polygon")


def find(root: Path, class_name: str, train: bool) -> ClassFiles:
    """The files of a class: of a folder with a project, or of `root` itself under its own name."""
    return files_in_folders(root, class_name, train, _files, _rows)


def classes(root: Path) -> list[str]:
    """Folders with a project, by name; the root's own name where it has them itself."""
    return classes_in_folders(root, _files)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("annotations/*.json"))


def _rows(file: Path, folder: Path) -> Iterator[Row]:
    content = read_json(file)
    categories = entry(entry(content, "categories", dict, str(file)), "label", dict, f"{file}: categories")
    labels = entry(categories, "labels", list, f"{file}: categories.label")
    names = [entry(label, "name", str, f"{file}: categories.label.labels[{i}]") for i, label in enumerate(labels)]
    for number, item in enumerate(entry(content, "items", list, str(file))):
        yield _row(file, folder, f"{file}: items[{number}]", item, names)


def _row(file: Path, folder: Path, where: str, item: Any, names: list[str]) -> Row:
    name = entry(entry(item, "image", dict, where), "path", str, f"{where}.image")
    path = first_file([folder / "images" / file.stem / name, folder / "images" / name, folder / name])
    attributes = item.get("attr") or item.get("attributes") or {}
    split = str(attributes.get("split") or split_in((file.stem, *Path(name).parts[:-1])))
    found = [(_name(a, names, where), a) for a in entry(item, "annotations", list, where)]
    defects = [(label, annotation) for label, annotation in found if not is_normal_name(label)]
    shapes = [_shape(a, where) for _, a in defects if a.get("type") in _SHAPES]
    mask = drawn_mask(shapes, _size(item, path, where), f"{where} {name}") if shapes else None
    return Row(where, folder.resolve().name, split, path, defects[0][0] if defects else GOOD, mask)


def _name(annotation: Any, names: list[str], where: str) -> str:
    number = entry(annotation, "label_id", int, f"{where}.annotations")
    if not 0 <= number < len(names):
        raise DataError(f"{where}.annotations: label_id {number} is not among the labels; export the file again")
    return names[number]


def _shape(annotation: dict[str, Any], where: str) -> Any:
    if annotation["type"] == "polygon":
        return [entry(annotation, "points", list, f"{where}.annotations")]
    return entry(annotation, "rle", dict, f"{where}.annotations")


def _size(item: Any, path: Path, where: str) -> tuple[int, int]:
    """(width, height), as the item says it (height first), else as the file does."""
    size = item["image"].get("size")
    if size is not None:
        height, width = entry(item["image"], "size", list, f"{where}.image")
        return int(width), int(height)
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise DataError(f"{where}: no image.size, and {path} cannot be opened ({error})") from error
