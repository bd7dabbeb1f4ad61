"""A fast pass over every file that a run will need, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import decoding
from .datasets import get_dataset_class
from .errors import DataError, raise_all
from .layouts import ClassFiles, Sample


@dataclass(frozen=True)
class DataReport:
    """What was read, and what is odd without being wrong."""

    images: int
    warnings: list[str]


def check_dataset(name: str, root: str | Path, class_names: Sequence[str], num_workers: int = 0) -> DataReport:
    """Read every image and mask of the classes.

    Args:
        name: `mvtec`, `visa`, `mpdd` or `folder`.
        num_workers: threads that read; 0 reads in this one.

    Raises:
        DataError: lists damaged files, missing masks, masks of another size, empty classes, a wrong layout.
    """
    dataset = get_dataset_class(name)
    raise_all([problem for c in class_names for problem in _problems_of_name(c)])
    splits = [dataset.find(Path(root), c, train) for c in class_names for train in (True, False)]
    repeated = sorted({c for c in class_names if list(class_names).count(c) > 1})
    problems = [f"class {c!r} is named twice in --task_classes; name it once" for c in repeated]
    problems += dict.fromkeys(problem for split in splits for problem in split.problems)
    samples = [sample for split in splits for sample in split.samples]
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        for found in pool.map(_problems_of, samples):
            problems += found
    raise_all(problems)
    tests = zip(class_names, splits[1::2], strict=True)
    return DataReport(len(samples), [warning for name, split in tests for warning in _odd(name, split)])


def _problems_of_name(class_name: str) -> list[str]:
    """A name becomes part of file names in the run directory, and stands in its tables."""
    if class_name in ("", ".", "..") or {"/", "\0"} & set(class_name):
        return [f"class {class_name!r} is no name of a folder: give the name alone, without its path"]
    try:
        class_name.encode()
    except UnicodeEncodeError:
        return [f"class {class_name!r} is no text in UTF-8: rename the folder"]
    return []


def _problems_of(sample: Sample) -> list[str]:
    try:
        decoding.verify(sample.path)
        if sample.mask_path is None:
            return []
        marked = decoding.load_mask(sample.mask_path).getbbox() is not None
        mask, image = decoding.upright_size(sample.mask_path), decoding.upright_size(sample.path)
    except DataError as error:
        return [str(error)]
    if mask != image:
        return [
            f"{sample.mask_path}: {mask[0]}x{mask[1]} pixels, but {sample.path} has {image[0]}x{image[1]}; "
            "export the mask at the size of its image"
        ]
    if not marked:
        return [f"{sample.mask_path}: marks no pixel, though {sample.path} is labelled defective; draw the defect"]
    return []


def _odd(class_name: str, test: ClassFiles) -> list[str]:
    labels = {sample.label for sample in test.samples}
    warnings = []
    if labels == {0}:
        warnings.append(f"class {class_name!r} has no defective test images: its AUROC and AP are undefined (-)")
    if labels == {1}:
        warnings.append(f"class {class_name!r} has no normal test images: its AUROC is undefined (-)")
    if not test.has_masks:
        warnings.append(f"class {class_name!r} has no ground_truth folder: image-level metrics only")
    return warnings
