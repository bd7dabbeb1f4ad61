"""What is drawn of a result: as bytes, so that many can be drawn at once and written in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.detector.result import Result
from moleflow_fast.predict import overlay_files as pictures
from moleflow_fast.predict import page


@dataclass(frozen=True)
class Drawn:
    """A result and its pictures; none of an error."""

    result: Result
    files: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files, "overlay" and "mask"."""
    inlined: tuple[str, str] | None = None
    """The image and its overlay for the page."""


@dataclass(frozen=True)
class Drawing:
    """How results are drawn; several threads may at once."""

    calibration: Calibration
    to_files: bool
    to_page: bool

    @property
    def side(self) -> int | None:
        """What the long side of the pictures is shrunk to, pixels; None where nothing is drawn."""
        if self.to_files:
            return pictures.LONGEST_SIDE
        return page.SIDE if self.to_page else None

    def __call__(self, result: Result, picture: Image.Image | None) -> Drawn:
        if picture is None or result.task_id is None:
            return Drawn(result)
        task = self.calibration.tasks[result.task_id]
        overlay = pictures.overlay(picture, result, task)
        files = {}
        if self.to_files:
            files = {"overlay": pictures.encoded(overlay), "mask": pictures.encoded(pictures.mask(result, task))}
        inlined = (page.inlined(picture), page.inlined(overlay)) if self.to_page else None
        return Drawn(result, files, inlined)
