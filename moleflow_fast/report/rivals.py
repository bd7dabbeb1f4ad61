"""Rows of a method that is no run: what `bench/patch_knn.py` writes, one a class and way of choosing patches."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from moleflow_fast.errors import UserError

FIGURES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")


@dataclass(frozen=True)
class RivalRow:
    """One class under true ids; figures in [0, 1], NaN where there is none."""

    class_name: str
    figures: dict[str, float]
    seconds: float
    bytes: int


Rivals = dict[str, list[RivalRow]]  # by the way of choosing patches


def read_rivals(file: Path) -> Rivals:
    """The rows of a file.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    rivals: Rivals = {}
    try:
        with file.open(newline="") as stream:
            for line in csv.DictReader(stream):
                figures = {name: float(line[name]) for name in FIGURES}
                row = RivalRow(line["class_name"], figures, float(line["build_seconds"]), int(line["bank_bytes"]))
                rivals.setdefault(line["coreset"], []).append(row)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{file} is no file of bench/patch_knn.py ({error}): give what its --csv names") from error
    if not rivals:
        raise UserError(f"{file} has no row: did bench/patch_knn.py end before its first class?")
    return rivals
