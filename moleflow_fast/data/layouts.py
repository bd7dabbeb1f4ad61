"""Where the files of a class lie, in each data set's own layout."""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from moleflow_fast.config.data_sets import FOLDER, LISTS
from moleflow_fast.errors import shown

from .data_error import DataError
from .drawn_mask import DrawnMask
from .finding import UNLISTED, Found, LeftOut, find_images, subfolder

GOOD = "good"
_NORMAL = frozenset(
    {
        "good", "ok", "okay", "normal", "nominal", "defectfree", "nodefect", "nodefects", "nondefective", "nondefect",
        "anomalyfree", "noanomaly", "pass", "passed", "faultless", "flawless", "healthy",
    }
)  # fmt: skip
_BESIDE_GOOD = "beside the normal images in train, not trained on: put them into train/good if they are normal"


@dataclass(frozen=True)
class Sample:
    """One image: `label` is 0 good or 1 defect in test sets, the class index in training sets."""

    path: Path
    mask_path: Path | DrawnMask | None
    label: int
    type: str
    class_name: str


@dataclass
class ClassFiles:
    """The images of one class in one split, and what is wrong with them."""

    samples: list[Sample] = field(default_factory=list)
    has_masks: bool = True
    problems: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def is_normal_name(name: str) -> bool:
    """Whether a folder or label of this name holds images without defects."""
    return re.sub(r"[\W_]+", "", name.casefold()) in _NORMAL


def find_mvtec_layout(root: Path, class_name: str, train: bool, needs_tests: bool = False) -> ClassFiles:
    """`<class>/train/good/*`, `<class>/test/<type>/*`, `<class>/ground_truth/<type>/<stem>_mask.*`, at any depth.

    Names may differ in upper and lower case; `good` may be any name that `is_normal_name` knows; training images may
    lie right in `train`. `<stem>.*` is taken for a mask too, and a mask may lie right in `<type>` where only one image
    has its stem. A class without a `ground_truth` folder has image labels only, one without `test` no metrics.

    Args:
        needs_tests: no test images are a problem.
    """
    folder = root / class_name
    if not folder.is_dir():
        return ClassFiles(problems=[explain_missing_class(root, class_name)])
    truth = subfolder(folder, "ground_truth")
    found = ClassFiles(has_masks=truth is not None)
    if train:
        _add_training_images(found, folder, class_name)
        _leave_out_other_folders(found, folder)
    else:
        _add_test_images(found, folder, truth, class_name, needs_tests)
    return found


def _add_training_images(found: ClassFiles, folder: Path, class_name: str) -> None:
    split = subfolder(folder, "train")
    inside = Found() if split is None else find_images(split, deep=False)
    normal = [place for place in inside.folders if is_normal_name(place.name)]
    if not normal and not inside.images:
        where = folder / "train" / GOOD
        found.problems.append(f"{where}: missing; MVTec AD layout wants {_wanted(class_name, True)}")
        return
    found.left_out.update(inside.left_out)
    images = inside.images
    if normal:
        found.left_out.add(_BESIDE_GOOD, *inside.images)
        images = [path for place in normal for path in _taken(found, place)]
    for place in inside.folders:
        if place not in normal:
            found.left_out.add(_BESIDE_GOOD, *_taken(found, place))
    if not images:
        found.problems.append(f"{normal[0]}: no images in it; put {_wanted(class_name, True)} there or drop the class")
    found.samples += [Sample(path, None, 0, GOOD, class_name) for path in images]


def _add_test_images(found: ClassFiles, folder: Path, truth: Path | None, class_name: str, needs_tests: bool) -> None:
    split = subfolder(folder, "test")
    if split is None:
        if needs_tests:
            missing = f"missing; MVTec AD layout wants {_wanted(class_name, False)}"
            found.problems.append(f"{folder / 'test'}: {missing}")
        return
    inside = find_images(split, deep=False)
    found.left_out.update(inside.left_out)
    found.left_out.add("right in test, without a label: put them into test/good or test/<defect>", *inside.images)
    for place in inside.folders:
        _add_type(found, folder, truth, place, class_name)
    if not found.samples and needs_tests:
        found.problems.append(f"{split}: no images in it; put {_wanted(class_name, False)} there or drop the class")


def _add_type(found: ClassFiles, folder: Path, truth: Path | None, place: Path, class_name: str) -> None:
    images = _taken(found, place)
    if is_normal_name(place.name):
        found.samples += [Sample(path, None, 0, place.name, class_name) for path in images]
        return
    masks = {} if truth is None else _masks_of(found, images, place, subfolder(truth, place.name))
    for path in images:
        if truth is not None and path not in masks:
            wanted = truth / path.relative_to(place.parent).with_name(f"{path.stem}_mask.png")
            remedy = f"add it, or remove {truth} to use image labels only"
            found.problems.append(f"{path}: its mask {wanted} is missing; {remedy}")
        found.samples.append(Sample(path, masks.get(path), 1, place.name, class_name))


def _masks_of(found: ClassFiles, images: Sequence[Path], place: Path, folder: Path | None) -> dict[Path, Path]:
    """The mask of each image below `place` that has one below `folder`."""
    if folder is None:
        return {}
    files = _taken(found, folder)
    by_name = {_key(path, folder): path for path in files}
    masks = {}
    for path in images:
        parent, stem = _key(path, place)
        mask = by_name.get((parent, f"{stem}_mask")) or by_name.get((parent, stem))
        if mask is not None:
            masks[path] = mask
    top = Path()
    left = [path for path in images if path not in masks]
    for path in left:
        _, stem = _key(path, place)
        mask = by_name.get((top, f"{stem}_mask")) or by_name.get((top, stem))
        alone = sum(_key(other, place)[1] == stem for other in left) == 1
        if mask is not None and alone and mask not in masks.values():
            masks[path] = mask
    found.left_out.add("masks of no image", *(path for path in files if path not in set(masks.values())))
    return masks


def _key(path: Path, below: Path) -> tuple[Path, str]:
    return Path(str(path.parent.relative_to(below)).casefold()), path.stem.casefold()


def _leave_out_other_folders(found: ClassFiles, folder: Path) -> None:
    inside = find_images(folder, deep=False)
    known = {subfolder(folder, name) for name in ("train", "test", "ground_truth")}
    loose = [path for place in inside.folders if place not in known for path in _taken(found, place, told=False)]
    found.left_out.add("outside of train, test and ground_truth", *inside.images, *loose)


def _taken(found: ClassFiles, folder: Path, told: bool = True) -> list[Path]:
    """All images below a folder; what is not taken there is noted, unless none of it is used."""
    try:
        inside = find_images(folder)
    except DataError:
        found.left_out.add(UNLISTED, folder)
        return []
    if told:
        found.left_out.update(inside.left_out)
    return inside.images


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
    "mvtec": partial(find_mvtec_layout, needs_tests=True),
    "visa": find_visa,
    "mpdd": partial(find_mvtec_layout, needs_tests=True),
    FOLDER: find_mvtec_layout,
}

FOLDERS_ARE_CLASSES = (FOLDER,)  # each folder of the root is a class, or it is said why not


def layout(name: str) -> Callable[[Path, str, bool], ClassFiles]:
    """Finds the files of a class (root, class, whether those to train on) without opening any.

    Raises:
        DataError: no such layout.
    """
    if name in LISTS:
        find: Callable[[Path, str, bool], ClassFiles] = _reader(name).find
        return find
    if name not in LAYOUTS:
        raise DataError(f"unknown data set {name!r}: choose from {', '.join((*LAYOUTS, *LISTS))}")
    return LAYOUTS[name]


def listed_classes(name: str, root: Path) -> list[str]:
    """The classes that a list names, sorted; `name` is one of `data_sets.LISTS`."""
    if not root.exists():
        raise DataError(f"{root}: no such file or folder; check --data_path")
    classes: list[str] = _reader(name).classes(root)
    if not classes:
        raise DataError(f"{root}: nothing in it that --dataset {name} reads; docs/data_formats.md shows what it wants")
    return classes


def _reader(name: str) -> Any:
    """A module with `find` and `classes`, of the list's name unless Python has a module of that name."""
    module = "csv_list" if name == "csv" else name
    return import_module(f"{__package__}.{module}")  # not at the top: readers import this module


def is_there(name: str, root: Path, class_name: str) -> bool:
    """Whether the training images of a class are where a run had them."""
    if name in LISTS:
        return bool(layout(name)(root, class_name, True).samples)
    return (root / class_name).is_dir()


def discover_classes(root: Path) -> list[str]:
    """Names of the folders with normal images in `train/good` or right in `train`, sorted."""
    if not root.is_dir():
        return []
    return sorted(place.name for place in find_images(root, deep=False).folders if _has_training_images(place))


def products_left_out(root: Path) -> list[str]:
    """A line for each folder that has images and is no class, with the remedy, and one for images in `root` itself."""
    inside = find_images(root, deep=False)
    lines = [line for place in inside.folders if not _has_training_images(place) for line in _why_no_class(place)]
    loose = LeftOut()
    loose.add("outside of any class folder", *inside.images)
    loose.add(UNLISTED, *(place for place in inside.folders if not os.access(place, os.R_OK | os.X_OK)))
    return lines + loose.said(root)


def _has_training_images(folder: Path) -> bool:
    try:
        split = subfolder(folder, "train")
        inside = Found() if split is None else find_images(split, deep=False)
    except DataError:
        return False
    return bool(inside.images) or any(is_normal_name(place.name) for place in inside.folders)


def _why_no_class(folder: Path) -> list[str]:
    try:
        images = find_images(folder).images
    except DataError:
        return []
    if not images:
        return []
    counted = f"{shown(folder)}: {len(images)} images that are not used; "
    if nested := _classes_of(folder):
        return [f"{counted}it holds the class folders {', '.join(map(shown, nested))}: give it as --data_path"]
    split = subfolder(folder, "train")
    if split is None:
        return [f"{counted}to learn it as a class put its normal images into {shown(folder / 'train' / GOOD)}"]
    names = ", ".join(shown(place.name) for place in find_images(split, deep=False).folders) or "nothing"
    return [f"{counted}its train holds {names} and no folder good: put its normal images into {shown(split / GOOD)}"]


def explain_missing_class(root: Path, class_name: str = "") -> str:
    """Why `root` has no such class (or none at all), and what to do."""
    if not root.is_dir():
        return f"{root}: no such folder; check --data_path"
    known = discover_classes(root)
    if subfolder(root, "train") is not None:
        return f"{root} is itself a class folder; give its parent, {root.parent}, as --data_path"
    if not known:
        nested = [place for place in find_images(root, deep=False).folders if _classes_of(place)]
        hint = f"; did you mean {nested[0]}?" if nested else "".join(f"\n  {line}" for line in products_left_out(root))
        return f"{root}: no folder in it has train/good, so it is not in MVTec AD layout{hint}"
    close = difflib.get_close_matches(class_name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{root / class_name}: no such class; {hint}there are {', '.join(known)}"


def _wanted(class_name: str, train: bool) -> str:
    if train:
        return f"{class_name}/train/good/*.png"
    return f"{class_name}/test/good/*.png and {class_name}/test/<defect>/*.png"


def _classes_of(folder: Path) -> list[str]:
    try:
        return discover_classes(folder)
    except DataError:
        return []


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "nothing"
