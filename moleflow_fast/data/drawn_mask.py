"""Masks that annotations draw: polygons, and run lengths as COCO writes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .data_error import DataError


@dataclass(frozen=True)
class DrawnMask:
    """A mask of no file of its own; what any part covers counts as defective.

    Args:
        source: where it is annotated, which stands for its path in messages.
        size: (width, height) of its image, pixels.
        polygons: x and y of the corners, in turn.
        runs: lengths of runs down the columns, outside and inside in turn, of (height, width) pixels in all.
    """

    source: str
    size: tuple[int, int]
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[tuple[int, ...], ...] = ()

    def image(self) -> Image.Image:
        """In mode L, 255 where defective."""
        mask = Image.new("L", self.size)
        drawing = ImageDraw.Draw(mask)
        for corners in self.polygons:
            drawing.polygon(corners, fill=255)
        pixels = np.array(mask)
        for lengths in self.runs:
            inside = np.arange(len(lengths)) % 2 == 1
            pixels |= np.repeat(inside, lengths).reshape(self.size[::-1], order="F").astype(np.uint8) * 255
        return Image.fromarray(pixels)

    def __str__(self) -> str:
        return self.source


def drawn_mask(shapes: Sequence[Any], size: tuple[int, int], where: str) -> DrawnMask | None:
    """The mask of some COCO segmentations: lists of polygons, or run lengths {"counts", "size": [height, width]}.

    Args:
        where: file and field, for messages.

    Raises:
        DataError: something else, or run lengths of another size than the image's (width, height).
    """
    polygons: list[tuple[float, ...]] = []
    runs: list[tuple[int, ...]] = []
    for shape in shapes:
        if isinstance(shape, dict):
            runs.append(_run_lengths(shape, size, where))
        else:
            polygons += [_corners(polygon, where) for polygon in shape]
    return DrawnMask(where, size, tuple(polygons), tuple(runs)) if polygons or runs else None


def _corners(polygon: Any, where: str) -> tuple[float, ...]:
    numbers = isinstance(polygon, list) and all(isinstance(value, (int, float)) for value in polygon)
    if not numbers or len(polygon) < 6 or len(polygon) % 2:
        raise DataError(f"{where}: a polygon is a list x, y, x, y, ... of at least three corners; export it again")
    return tuple(map(float, polygon))


def _run_lengths(shape: dict[str, Any], size: tuple[int, int], where: str) -> tuple[int, ...]:
    counts = shape.get("counts")
    try:
        lengths = _decoded(counts) if isinstance(counts, str) else [int(count) for count in counts or ()]
    except (IndexError, TypeError, ValueError) as error:
        raise DataError(f"{where}: counts are no run lengths of COCO ({error}); export it again") from error
    width, height = size
    if not lengths or shape.get("size") != [height, width] or sum(lengths) != width * height or min(lengths) < 0:
        raise DataError(
            f"{where}: size {shape.get('size')} and {sum(lengths)} pixels of run lengths, but the image is {height} "
            f"high and {width} wide; export the mask at the size of its image"
        )
    return tuple(lengths)


def _decoded(text: str) -> list[int]:
    """COCO's text: 5 bits a character from "0" on, the lowest first, 32 says that more follow, 16 the sign.

    From the fourth number on they are differences to the last but one.
    """
    numbers: list[int] = []
    codes = iter(text.encode("ascii"))
    for first in codes:
        value = 0
        for place, code in enumerate(itertools.chain([first], codes)):
            bits = code - 48
            value |= (bits & 31) << 5 * place
            if not bits & 32:
                value -= (bits & 16) << (5 * place + 1)
                break
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
    return numbers
