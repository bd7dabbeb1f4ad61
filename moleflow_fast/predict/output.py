"""The folder that results go to: tables row by row, pictures beside them, and a page at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.detector.result import Result
from moleflow_fast.predict import pictures
from moleflow_fast.predict.page import Page
from moleflow_fast.predict.records import Records, record_of


class Output:
    """Takes results in order and writes what was asked for."""

    def __init__(
        self, folder: Path, calibration: Calibration, records: Records, page: Page | None, draws: bool
    ) -> None:
        self._folder = folder
        self._calibration = calibration
        self._records = records
        self._page = page
        self._draws = draws
        self._number = 0

    @classmethod
    @contextmanager
    def in_folder(cls, folder: Path, calibration: Calibration, page: bool, draws: bool) -> Iterator[Output]:
        """
        Args:
            page: also collect what `index.html` shows.
            draws: write overlays and masks.

        Raises:
            UserError: the folder holds results already.
        """
        (folder / pictures.FOLDER if draws else folder).mkdir(parents=True, exist_ok=True)
        with Records.in_folder(folder) as records:
            yield cls(folder, calibration, records, Page(folder) if page else None, draws)

    def add(self, result: Result, picture: Image.Image | None) -> dict[str, Any]:
        """Write a result; returns its record. `picture` is wanted for drawings and for the page."""
        self._number += 1
        wanted = self._draws or self._page is not None
        over = None
        names: dict[str, str] = {}
        if wanted and picture is not None and result.task_id is not None:
            task = self._calibration.tasks[result.task_id]
            over = pictures.overlay(picture, result, task)
            if self._draws:
                names["overlay"] = pictures.save(self._folder, over, self._number, result, "overlay")
                names["mask"] = pictures.save(self._folder, pictures.mask(result, task), self._number, result, "mask")
        record = record_of(result, names)
        self._records.add(record)
        if self._page is not None:
            self._page.add(record, result, picture, over)
        return record

    def finish(self, title: str, threshold: float) -> None:
        """Write the page, if there is to be one."""
        if self._page is not None:
            self._page.write(title, threshold)
