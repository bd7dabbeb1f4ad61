"""The results as one page that needs nothing else: a table to sort and filter, and a slider for the threshold."""

from __future__ import annotations

import base64
import heapq
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from moleflow_fast.detector.result import Result
from moleflow_fast.pages.templates import template
from moleflow_fast.system.files import replacing

PAGE = "index.html"
MOST_PICTURES = 300
SIDE = 280  # of a picture in the page, pixels
MOST_BYTES = 16 * 2**20  # of all pictures in the page

Pair = tuple[str, str]  # an image and its overlay, as `inlined` gives them


class Page:
    """Collects what the page shows; of the pictures those with the highest scores, up to the two limits.

    Rows wait in a file for the page, so that memory holds the pictures alone.
    """

    def __init__(self, folder: Path, rows: TextIO) -> None:
        self._folder = folder
        self._rows = rows
        self._count = 0
        self._readable = 0
        self._kept: list[tuple[float, int, Pair]] = []  # a heap of (score, -row, pictures), the lowest first
        self._bytes = 0

    @classmethod
    @contextmanager
    def in_folder(cls, folder: Path) -> Iterator[Page]:
        """The page of a folder; what waits for it has no name there and is gone afterwards."""
        with tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8", newline="\n") as rows:
            yield cls(folder, rows)

    def add(self, record: Mapping[str, Any], result: Result, pictures: Pair | None) -> None:
        """A row, with its image and overlay (`inlined`) as long as few rows score higher."""
        row: dict[str, Any] = {
            name: record[name] for name in ("path", "label", "calibrated", "score", "distance", "overlay", "error")
        }
        row["product"] = ", ".join(record["classes"])
        row["regions"] = len(record["regions"])
        row["image"] = _relative(result.source, self._folder)
        self._rows.write(_json(row) + "\n")
        self._readable += record["error"] is None
        if pictures is not None:
            self._keep(result.calibrated, self._count, pictures)
        self._count += 1

    def _keep(self, score: float, row: int, pictures: Pair) -> None:
        heapq.heappush(self._kept, (score, -row, pictures))
        self._bytes += _size(pictures)
        while len(self._kept) > MOST_PICTURES or self._bytes > MOST_BYTES:
            self._bytes -= _size(heapq.heappop(self._kept)[2])

    def write(self, title: str, threshold: float | None) -> Path:
        """Once, when all rows are there.

        Args:
            threshold: calibrated; None where products have others. Labels stay as they are until the reader moves it.
        """
        file = self._folder / PAGE
        shown = template("moleflow_fast.predict", "results.html").generate(
            language="en", title=title, most_pictures=MOST_PICTURES, most_mib=MOST_BYTES >> 20,
            without_pictures=self._readable - len(self._kept), threshold=_json(threshold), rows=self._with_pictures(),
        )  # fmt: skip
        with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as page:
            page.writelines(shown)
        return file

    def _with_pictures(self) -> Iterator[Markup]:
        """The rows, one after another from their file."""
        kept = {-row: pictures for _, row, pictures in self._kept}
        self._rows.seek(0)
        for number, line in enumerate(self._rows):
            row = Markup(line.removesuffix("\n"))
            yield _json({**json.loads(row), "pictures": kept[number]}) if number in kept else row


def inlined(picture: Image.Image) -> str:
    """A small copy as the address of itself."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _json(value: Any) -> Markup:
    # "<" could end the script element, whatever stands around it.
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))


def _size(pictures: Pair) -> int:
    return sum(map(len, pictures))


def _relative(source: Path | int, folder: Path) -> str:
    return quote(os.fsencode(os.path.relpath(str(source), folder)))
