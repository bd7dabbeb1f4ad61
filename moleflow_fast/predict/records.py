"""What is written about each file: one line of scores.jsonl, and the same in scores.csv with regions as a number."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moleflow_fast.detector.result import Result
from moleflow_fast.errors import UserError, shown

CSV, JSONL = "scores.csv", "scores.jsonl"

COLUMNS = (
    "path", "label", "calibrated", "score", "task_id", "classes", "distance", "margin", "width", "height",
    "regions", "area", "peak", "overlay", "mask", "error",
)  # fmt: skip


def record_of(result: Result, pictures: Mapping[str, str]) -> dict[str, Any]:
    """All of a result that fits into a line of JSON; None for what there is not.

    Args:
        pictures: names of its files, "overlay" and "mask".
    """
    width, height = result.size or (None, None)
    return {
        "path": shown(result.source),
        "label": result.label,
        "calibrated": _number(result.calibrated),
        "score": _number(result.score),
        "task_id": result.task_id,
        "classes": list(result.class_names),
        "distance": _number(result.distance),
        "margin": _number(result.margin),
        "distances": {str(task): distance for task, distance in result.distances.items()},
        "width": width,
        "height": height,
        "regions": [asdict(region) for region in result.regions],
        "area": sum(region.area for region in result.regions) if result.error is None else None,
        "peak": max((region.peak for region in result.regions), default=None),
        "overlay": pictures.get("overlay"),
        "mask": pictures.get("mask"),
        "error": None if result.error is None else shown(result.error),
    }


def require_none_in(folder: Path) -> None:
    """
    Raises:
        UserError: a folder that holds results already: those of two calls would be mixed.
    """
    for name in (CSV, JSONL):
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists: choose another folder with -o, or remove this one")


class Records:
    """Both files, written and flushed row by row."""

    def __init__(self, table: Any, lines: Any) -> None:
        self._lines = lines
        self._table = table
        self._writer = csv.writer(table)
        self._writer.writerow(COLUMNS)

    @classmethod
    @contextmanager
    def in_folder(cls, folder: Path) -> Iterator[Records]:
        """New files in a folder; see `require_none_in`."""
        require_none_in(folder)
        table, lines = folder / CSV, folder / JSONL
        with table.open("x", newline="", encoding="utf-8") as rows, lines.open("x", encoding="utf-8") as stream:
            yield cls(rows, stream)

    def add(self, record: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        regions = None if record["error"] else len(record["regions"])
        short = {"classes": " + ".join(record["classes"]), "regions": regions}
        self._writer.writerow([{**record, **short}[name] for name in COLUMNS])
        self._lines.flush()
        self._table.flush()


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
