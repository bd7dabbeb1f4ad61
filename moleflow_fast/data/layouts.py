"""Where the files of a class lie, in each data set's own layout."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .decoding import IMAGE_SUFFIXES
from .errors import DataError

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image: `label` is 0 good or 1 defect in test sets, the class index in training sets."""

    path: Path
    mask_path: Path | None
    label: int
    type: str
    class_name: str


@dataclass
class ClassFiles:
    """The images of one class in one split, and what is wrong with them."""

    samples: list[Sample] = field(default_factory=list)
    has_masks: bool = True
    problems: list[str] = field(default_factory=list)


def find_mvtec_layout(root: Path, class_name: str, train: bool) -> ClassFiles:
    """`<class>/train/good/*`, `<class>/test/<type>/*`, `<class>/ground_truth/<type>/<stem>_mask.*`.

    `<stem>.*` is taken for a mask too. A class without a `ground_truth` folder has image labels only.
    """
    folder = root / class_name
    if not folder.is_dir():
        return ClassFiles(problems=[explain_missing_class(root, class_name)])
    found = ClassFiles(has_masks=(folder / "ground_truth").is_dir())
    split = folder / "train" / GOOD if train else folder / "test"
    if not split.is_dir():
        found.problems.append(f"{split}: missing; MVTec AD layout wants {_wanted(class_name, train)}")
        return found
    types = [split] if train else sorted(d for d in split.iterdir() if d.is_dir())
    for directory in types:
        _add_type(found, folder, directory, class_name)
    if not found.samples:
        found.problems.append(f"{split}: no images in it; put {_wanted(class_name, train)} there or drop the class")
    return found


def _add_type(found: ClassFiles, folder: Path, directory: Path, class_name: str) -> None:
    defective = directory.name != GOOD
    masks = _images_by_stem(folder / "ground_truth" / directory.name) if defective and found.has_masks else {}
    for path in _images(directory):
        mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
        if defective and found.has_masks and mask is None:
            wanted = folder / "ground_truth" / directory.name / f"{path.stem}_mask.png"
            remedy = f"add it, or remove {folder / 'ground_truth'} to use image labels only"
            found.problems.append(f"{path}: its mask {wanted} is missing; {remedy}")
        found.samples.append(Sample(path, mask, int(defective), directory.name, class_name))


def find_visa(root: Path, class_name: str, train: bool) -> ClassFiles:
    """`split_csv/1cls.csv` with columns object, split, label (normal or a defect), image and mask."""
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        return ClassFiles(problems=[f"{table}: missing; --data_path must be the VisA folder that holds split_csv"])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"object", "split", "label", "image", "mask"} - set(rows[0] if rows else ())
    if missing:
        return ClassFiles(problems=[f"{table}: lacks the columns {', '.join(sorted(missing))}; take the original file"])
    split = "train" if train else "test"
    found = ClassFiles()
    for row in rows:
        if row["object"] == class_name and row["split"] == split:
            _add_visa_row(found, root, row)
    if not found.samples:
        known = _listed(row["object"] for row in rows)
        found.problems.append(f"{table}: no {split} rows of class {class_name!r}; it has {known}")
    return found


def _add_visa_row(found: ClassFiles, root: Path, row: dict[str, str]) -> None:
    defective = row["label"] != "normal"
    path = root / row["image"]
    mask = root / row["mask"] if defective and row["mask"] else None
    if not path.is_file():
        found.problems.append(f"{path}: missing, though split_csv/1cls.csv names it; unpack the data set again")
    if defective and (mask is None or not mask.is_file()):
        found.problems.append(f"{path}: its mask {mask or '(none named)'} is missing; unpack the data set again")
    found.samples.append(Sample(path, mask, int(defective), row["label"] if defective else GOOD, row["object"]))


LAYOUTS: dict[str, Callable[[Path, str, bool], ClassFiles]] = {
    "mvtec": find_mvtec_layout,
    "visa": find_visa,
    "mpdd": find_mvtec_layout,
    "folder": find_mvtec_layout,
}


def layout(name: str) -> Callable[[Path, str, bool], ClassFiles]:
    """Finds the files of a class (root, class, whether those to train on) without opening any.

    Raises:
        DataError: no such layout.
    """
    if name not in LAYOUTS:
        raise DataError(f"unknown data set {name!r}: choose from {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def discover_classes(root: Path) -> list[str]:
    """Names of the folders that hold `train/good`, sorted."""
    if not root.is_dir():
        return []
    return sorted(d.name for d in root.iterdir() if (d / "train" / GOOD).is_dir())


def explain_missing_class(root: Path, class_name: str = "") -> str:
    """Why `root` has no such class (or none at all), and what to do."""
    if not root.is_dir():
        return f"{root}: no such folder; check --data_path"
    known = discover_classes(root)
    if (root / "train").is_dir():
        return f"{root} is itself a class folder; give its parent, {root.parent}, as --data_path"
    if not known:
        nested = sorted(d.name for d in root.iterdir() if d.is_dir() and discover_classes(d))
        hint = f"; did you mean {root / nested[0]}?" if nested else ""
        return f"{root}: no folder in it has train/good, so it is not in MVTec AD layout{hint}"
    close = difflib.get_close_matches(class_name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{root / class_name}: no such class; {hint}there are {', '.join(known)}"


def _wanted(class_name: str, train: bool) -> str:
    if train:
        return f"{class_name}/train/good/*.png"
    return f"{class_name}/test/good/*.png and {class_name}/test/<defect>/*.png"


def _images(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def _images_by_stem(directory: Path) -> dict[str, Path]:
    return {path.stem: path for path in _images(directory)}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "nothing"
