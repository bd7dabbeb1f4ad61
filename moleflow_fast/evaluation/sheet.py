"""A class's heat maps on one sheet, drawn with NumPy and Pillow: a process that draws need not load torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from moleflow_fast.evaluation.lettering import font, plain, shortened, wrapped
from moleflow_fast.evaluation.overlays import outline, turbo
from moleflow_fast.system.files import replacing

CELL = 224  # side of a picture, pixels
GAP = 8
MARGIN = 12
_BAR = (16, 56)  # pixels: the colour bar, its numbers
_LINE = 1.5  # thickness of an outline, pixels
_LIME = np.array((0, 255, 0), np.float32)
_SHARE = np.float32(0.6)  # of the map's colours in what is seen
_INK, _FAINT = (20, 20, 20), (95, 95, 95)
_LEVEL = 3  # zlib: a sheet of six photographs takes a third of the default's time and a tenth more bytes


@dataclass(frozen=True)
class Sheet:
    """n test images of a class.

    Args:
        title: the class.
        note: what the pictures show.
        pictures: (n, S, S, 3).
        masks: (n, M, M), true where defective; None for a class without masks.
        heat: (n, S, S), 0 the coldest colour and 255 the hottest.
        captions: two lines of each picture, e.g. defect type and image score.
        colour_range: scores of the coldest and the hottest colour.
    """

    title: str
    note: str
    pictures: NDArray[np.uint8]
    masks: NDArray[np.bool_] | None
    heat: NDArray[np.uint8]
    captions: Sequence[tuple[str, str]]
    colour_range: tuple[float, float]


def draw_sheet(path: Path, sheet: Sheet) -> None:
    """A PNG file: the images with their true defects outlined, under them their maps, one colour scale for all.

    Raises:
        WriteFailed: the file cannot be written.
    """
    picture = _drawn(sheet)
    with replacing(path) as temporary:
        picture.save(temporary, "PNG", compress_level=_LEVEL)


def column(index: int) -> int:
    """Where a picture begins, from the left."""
    return MARGIN + index * (CELL + GAP)


def _drawn(sheet: Sheet) -> Image.Image:
    n = len(sheet.pictures)
    right = column(n) - GAP  # of the last picture
    heading = _heading(sheet, right - MARGIN)
    top = MARGIN + sum(height for *_, height in heading) + 40
    canvas = Image.new("RGB", (right + GAP + sum(_BAR) + MARGIN, top + 2 * CELL + GAP + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    y = MARGIN
    for text, size, ink, height in heading:
        draw.text((MARGIN, y), text, ink, font(size))
        y += height
    for i in range(n):
        x = column(i)
        _caption(draw, x, top, sheet.captions[i])
        picture = _sized(sheet.pictures[i])
        mask = None if sheet.masks is None else sheet.masks[i]
        canvas.paste(Image.fromarray(_outlined(picture, mask)), (x, top))
        canvas.paste(Image.fromarray(_heated(picture, sheet.heat[i])), (x, top + CELL + GAP))
    _colour_bar(canvas, right + GAP, top + CELL + GAP, sheet.colour_range)
    return canvas


def _heading(sheet: Sheet, width: int) -> list[tuple[str, int, tuple[int, int, int], int]]:
    """Lines with their size, ink and height, pixels."""
    title = shortened(plain(sheet.title), font(18), width)
    return [(title, 18, _INK, 26), *((line, 12, _FAINT, 16) for line in wrapped(sheet.note, font(12), width))]


def _caption(draw: ImageDraw.ImageDraw, x: int, bottom: int, lines: tuple[str, str]) -> None:
    for text, ink, above in zip(lines, (_INK, _FAINT), (36, 19), strict=True):
        draw.text((x, bottom - above), shortened(plain(text), font(13), CELL), ink, font(13))


def _sized(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(CELL, CELL, 3), or without channels."""
    sized = Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.BICUBIC)
    return np.asarray(sized, np.float32)


def _outlined(picture: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    if mask is None or not mask.any():
        return _bytes(picture)
    side = max(len(mask), 2 * CELL)  # at least twice as fine as it is seen: smooth lines
    inside = Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side), Image.Resampling.BILINEAR)
    border = outline(np.asarray(inside) > 127, round(_LINE * side / CELL))
    lines = Image.fromarray(border.astype(np.uint8) * 255).resize((CELL, CELL), Image.Resampling.BOX)
    share = np.asarray(lines, np.float32)[..., None] / 255
    return _bytes(picture * (1 - share) + _LIME * share)


def _heated(picture: NDArray[np.float32], heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = picture.mean(-1, keepdims=True)
    colours = turbo(np.clip(_sized(heat) / 255, 0, 1))
    return _bytes(grey * (1 - _SHARE) + colours * _SHARE)


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values.round().astype(np.uint8)


def _colour_bar(canvas: Image.Image, x: int, top: int, colour_range: tuple[float, float]) -> None:
    """Its colours are those over white."""
    low, high = colour_range
    heat = np.linspace(1, 0, CELL)[:, None].repeat(_BAR[0], 1)
    canvas.paste(Image.fromarray(_bytes(255 * (1 - _SHARE) + turbo(heat) * _SHARE)), (x, top))
    draw = ImageDraw.Draw(canvas)
    for value, text in ticks(low, high):
        y = top + (CELL - 1) * (high - value) / (high - low or 1)
        end = x + _BAR[0]
        draw.line((end, y, end + 4, y), _INK)
        draw.text((end + 7, y), shortened(text, font(11), _BAR[1] - 4), _INK, font(11), "lm")


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Two to six round numbers from low to high, and how they are written; `low` alone if nothing is between."""
    span = high - low
    if span < 1e-300:  # steps between would be no numbers
        return [(low, f"{low:.3g}")]
    power = math.floor(math.log10(span / 5))
    step = next(10.0**power * factor for factor in (1, 2, 5, 10) if span <= 5 * 10.0**power * factor)
    values = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    short = max(abs(low), abs(high)) < 1e5 and step >= 1e-4
    return [(value, f"{value:.{max(0, -power)}f}" if short else f"{value:.3g}") for value in values]
