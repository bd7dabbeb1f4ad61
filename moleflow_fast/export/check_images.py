"""The images that an exported program is checked with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moleflow_fast.data.datasets import byte_transform
from moleflow_fast.data.decoding import load_image
from moleflow_fast.detector.images import files_of
from moleflow_fast.errors import UserError
from moleflow_fast.run.run import Run


def to_check_with(run: Run, folder: Path | None, each: int) -> list[Path]:
    """At most `each` test images of every class of a run, or as many below a folder; mixed.

    Raises:
        UserError: there are none.
    """
    if folder is not None:
        found = _spread(files_of(folder), each * len(run.tasks.classes))
        return random.Random(0).sample(found, len(found))
    there = [task for task in run.tasks.active if run.tasks.have_images(task)]
    try:
        if not there:
            raise UserError("None of its products has images.")
        names = [name for task in there for name in run.tasks[task]]
        samples = [run.images.test(name).samples or run.images.training([name]).samples for name in names]
        tests = [[sample.path for sample in some] for some in samples]
    except UserError as error:
        raise UserError(
            "an exported program is checked with the run's own test images, and they cannot be found: give the folder "
            f"they are in now with --data_path, or other pictures of the products with --images. {error}"
        ) from error
    return list(_in_turns([_spread(paths, each) for paths in tests]))


def prepared(path: Path, side: int, view: str = "crop") -> NDArray[np.uint8]:
    """An image file as the program takes it, (side, side, 3): `data.datasets.byte_transform`, channels last.

    Args:
        view: "crop" or "whole".

    Raises:
        DataError: it cannot be read.
    """
    return byte_transform(side, side, view)(load_image(path)).permute(1, 2, 0).contiguous().numpy()


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most so many of them, from the first to the last at equal distances."""
    if len(paths) <= count:
        return list(paths)
    return [paths[i * len(paths) // count] for i in range(count)]


def _in_turns(groups: Sequence[Sequence[Path]]) -> Iterator[Path]:
    return (path for path in chain.from_iterable(zip_longest(*groups)) if path is not None)
