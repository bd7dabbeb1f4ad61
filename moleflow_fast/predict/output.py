"""The folder that results go to: tables row by row, pictures beside them, and a page at the end."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moleflow_fast.predict import overlay_files as pictures
from moleflow_fast.predict.drawing import Drawn
from moleflow_fast.predict.page import Page
from moleflow_fast.predict.records import Records, record_of


class Output:
    """Takes results in order and writes what was asked for."""

    def __init__(self, folder: Path, records: Records, page: Page | None) -> None:
        self._folder = folder
        self._records = records
        self._page = page
        self._number = 0

    @classmethod
    @contextmanager
    def in_folder(cls, folder: Path, page: bool, draws: bool) -> Iterator[Output]:
        """
        Args:
            page: also collect what `index.html` shows.
            draws: overlays and masks will come.

        Raises:
            UserError: the folder holds results already.
        """
        (folder / pictures.FOLDER if draws else folder).mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            records = stack.enter_context(Records.in_folder(folder))
            yield cls(folder, records, stack.enter_context(Page.in_folder(folder)) if page else None)

    def add(self, drawn: Drawn) -> dict[str, Any]:
        """Write a result and its pictures; returns its record."""
        self._number += 1
        names = {kind: pictures.name_of(self._number, drawn.result, kind) for kind in drawn.files}
        for kind, name in names.items():
            (self._folder / name).write_bytes(drawn.files[kind])
        record = record_of(drawn.result, names)
        self._records.add(record)
        if self._page is not None:
            self._page.add(record, drawn.result, drawn.inlined)
        return record

    def finish(self, title: str, thresholds: Collection[float]) -> None:
        """Write the page, if there is to be one; calibrated thresholds are those of the products."""
        if self._page is not None:
            self._page.write(title, next(iter(thresholds)) if len(thresholds) == 1 else None)
