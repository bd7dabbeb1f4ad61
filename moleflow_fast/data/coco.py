"""Images with defects drawn in COCO's JSON: images without annotations are normal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .data_error import DataError
from .drawn_mask import drawn_mask
from .layouts import GOOD, ClassFiles, is_normal_name
from .rows import Row, classes_in_folders, entry, files_in_folders, first_file, read_json, split_in


def find(root: Path, class_name: str, train: bool) -> ClassFiles:
    """The files of a class: of a folder with annotations, or of `root` itself under its own name."""
    return files_in_folders(root, class_name, train, _files, _rows)


def classes(root: Path) -> list[str]:
    """Folders with annotations, by name; the root's own name where it has them itself."""
    return classes_in_folders(root, _files)


def _files(folder: Path) -> list[Path]:
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    return sorted({file for pattern in patterns for file in folder.glob(pattern)})


def _rows(file: Path, folder: Path) -> Iterator[Row]:
    content = read_json(file)
    categories = entry(content, "categories", list, str(file))
    names = {entry(c, "id", int, f"{file}: categories"): str(c.get("name")) for c in categories}
    drawn: dict[Any, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for number, annotation in enumerate(entry(content, "annotations", list, str(file))):
        where = f"{file}: annotations[{number}]"
        category = entry(annotation, "category_id", int, where)
        if category not in names:
            raise DataError(f"{where}: category_id {category} is not among the categories; export the file again")
        if not is_normal_name(names[category]):
            drawn[entry(annotation, "image_id", (int, str), where)].append((names[category], annotation))
    for number, image in enumerate(entry(content, "images", list, str(file))):
        yield _row(file, folder, f"{file}: images[{number}]", image, drawn[entry(image, "id", (int, str), str(file))])


def _row(file: Path, folder: Path, where: str, image: Any, drawn: list[tuple[str, dict[str, Any]]]) -> Row:
    name = entry(image, "file_name", str, where)
    size = entry(image, "width", int, where), entry(image, "height", int, where)
    split = image.get("split") or split_in((file.stem, file.parent.name))
    places = (file.parent, folder / "images" / split, folder / split, folder / "images", folder)
    path = first_file([place / name for place in places])
    split = split or split_in(path.relative_to(folder).parts[:-1] if path.is_relative_to(folder) else ())
    shapes = [annotation.get("segmentation") or [] for _, annotation in drawn]
    mask = drawn_mask(shapes, size, f"{where} {name}, segmentation")
    return Row(where, folder.resolve().name, split, path, drawn[0][0] if drawn else GOOD, mask)
