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
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from PIL import Image

from moleflow_fast.detector.result import Result
from moleflow_fast.report.html import STYLE
from moleflow_fast.system.files import replacing

PAGE = "index.html"
MOST_PICTURES = 300
SIDE = 280  # of a picture in the page, pixels
MOST_BYTES = 16 * 2**20  # of all pictures in the page

Pair = tuple[str, str]  # an image and its overlay, as `inlined` gives them

_STYLE = """\
.controls { display: flex; flex-wrap: wrap; gap: .8rem 1.6rem; align-items: center; position: sticky; top: 0;
  z-index: 1; padding: .7rem 0; background: var(--paper); border-bottom: 1px solid var(--line) }
.controls label { display: flex; gap: .5rem; align-items: center } input[type=range] { width: 11rem }
#counts { display: flex; flex-wrap: wrap; gap: .4rem; width: 100% }
button, select { font: inherit; color: inherit; background: var(--shade); border: 1px solid var(--line);
  border-radius: 6px; padding: .25rem .7rem; cursor: pointer }
button[aria-pressed=true] { outline: 2px solid var(--link) } button b { font-variant-numeric: tabular-nums }
.scroll { border: 0; overflow-x: visible } td { white-space: normal; overflow-wrap: anywhere; vertical-align: middle }
th button { background: none; border: 0; padding: 0; font-weight: inherit; text-align: inherit }
tr { border-left: 6px solid transparent }
tr.normal { border-left-color: #2a9d55 } tr.defective { border-left-color: #d6293e; background: #d6293e1c }
tr.unknown { border-left-color: #b97700; background: #b977001c } tr.error { border-left-color: #777; background: #7772 }
td.label { font-weight: 600; white-space: nowrap } td.file { min-width: 11rem }
.pair { display: flex; gap: 4px } .pair img { width: 132px; height: auto; display: block;
  border-radius: 4px } .note { font-size: .85rem; opacity: .75 }
@media (max-width: 700px) {
  .controls { gap: .5rem 1rem } #counts button { font-size: .78rem; padding: .2rem .4rem }
  thead { display: none } table, tbody { display: block }
  tr { display: block; margin: 0 0 .8rem; padding: .5rem .7rem; border: 1px solid var(--line); border-left-width: 6px;
    border-radius: 6px }
  td, tr:last-child td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .12rem 0;
    text-align: right }
  td::before { content: attr(data-title); opacity: .65; text-align: left; flex: none } td:empty { display: none }
  .pair { width: 100% } .pair a { flex: 1 1 0; min-width: 0 } .pair img { width: 100% }
  td.pictures::before, td.file::before { content: none } td.file { font-weight: 600; text-align: left }
  td.why { text-align: left }
}
"""


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
        with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as page:
            page.write(self._head(title))
            page.write(f'<script type="application/json" id="data">{{"threshold": {_json(threshold)}, "records": [')
            page.writelines(self._rows_with_pictures())
            page.write("]}</script>\n")
            page.write(f"<script>\n{_script()}</script>\n</body>\n</html>\n")
        return file

    def _rows_with_pictures(self) -> Iterator[str]:
        """Elements of a JSON list."""
        kept = {-row: pictures for _, row, pictures in self._kept}
        self._rows.seek(0)
        for number, line in enumerate(self._rows):
            row = line.removesuffix("\n")
            if number in kept:
                row = _json({**json.loads(row), "pictures": kept[number]})
            yield f",\n{row}" if number else row

    def _head(self, title: str) -> str:
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>\n{STYLE}{_STYLE}</style>\n</head>\n<body>\n"
            f"<h1>{escape(title)}</h1>\n"
            f'<p class="note">{escape(self._note())} <span id="folder"></span></p>\n'
            f"{_CONTROLS}"
        )

    def _note(self) -> str:
        without = self._readable - len(self._kept)
        beyond = f" {without} images beyond that are links." if without else ""
        return (
            "A calibrated score of 0.5 is passed by one normal image in twenty, for every product. Unknown: much "
            f"farther from the nearest product than its own images are. The {MOST_PICTURES} highest scores have "
            f"pictures here, at most {MOST_BYTES >> 20} MiB.{beyond}"
        )


_CONTROLS = """\
<div class="controls">
<label>threshold <input type="range" id="threshold" min="0" max="1" step="0.01"> <output id="shown"></output></label>
<label>sort by <select id="sort"></select></label>
<div id="counts"></div>
</div>
<div class="scroll"><table><thead><tr></tr></thead><tbody></tbody></table></div>
<p><button id="more" hidden></button></p>
<noscript><p class="warning">The table is made by a script: allow it, or read scores.csv.</p></noscript>
"""


def inlined(picture: Image.Image) -> str:
    """A small copy as the address of itself."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _json(value: Any) -> str:
    # "<" could end the script element, whatever stands around it.
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _script() -> str:
    return files("moleflow_fast.predict").joinpath("page.js").read_text(encoding="utf-8")


def _size(pictures: Pair) -> int:
    return sum(map(len, pictures))


def _relative(source: Path | int, folder: Path) -> str:
    return quote(os.fsencode(os.path.relpath(str(source), folder)))
