"""Overlays and masks of results."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from moleflow_fast.detector.calibration import TaskCalibration
from moleflow_fast.detector.result import Result
from moleflow_fast.evaluation.overlays import outline, turbo

LONGEST_SIDE = 1024  # of an overlay, pixels
FOLDER = "pictures"
_OUTLINE = (255, 0, 140)
_STRONGEST = 0.65  # share of the hottest colour in an overlay
_FASTER = 1  # zlib level: a fifth of the default's time for a sixth more bytes


def overlay(picture: Image.Image, result: Result, task: TaskCalibration) -> Image.Image:
    """The picture with its map as colours and its regions outlined; darkened where the model does not look.

    Colours mean the same in all pictures of a task: none at the median normal pixel, half way at the pixel threshold.
    """
    assert result.view is not None
    values = result.view.on(*picture.size).lay_over(result.pixel_map)
    span = max(2 * (task.pixel_threshold - task.pixel_median), 1e-12)
    heat = np.clip((np.nan_to_num(values, nan=task.pixel_median) - task.pixel_median) / span, 0, 1)
    colours = turbo(heat)
    share = _STRONGEST * heat[..., None]
    pixels = np.asarray(picture, dtype=np.float32)
    mixed = pixels * (1 - share) + colours * share
    mixed[np.isnan(values)] *= 0.4
    if result.regions:
        mixed[outline(values > task.pixel_threshold, max(1, max(picture.size) // 400))] = _OUTLINE
    return Image.fromarray(mixed.round().astype(np.uint8))


def mask(result: Result, task: TaskCalibration) -> Image.Image:
    """255 inside the regions, 0 elsewhere, at the image's own resolution."""
    assert result.size is not None
    if not result.regions:
        return Image.new("L", result.size)
    return Image.fromarray((result.anomaly_map > task.pixel_threshold).astype(np.uint8) * 255)


def encoded(picture: Image.Image) -> bytes:
    """A PNG file."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=_FASTER)
    return stream.getvalue()


def name_of(number: int, result: Result, kind: str) -> str:
    """Of a picture of file `number`, from the output folder."""
    return f"{FOLDER}/{number:06d}-{_safe(str(result.source))}-{kind}.png"


def _safe(source: str) -> str:
    """What is left of a file's stem where names may be short and plain; the number beside it tells files apart."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source).stem)[:60].strip("_") or "image"
