"""The routing confusion matrix as a picture, drawn with NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from moleflow_fast.evaluation.lettering import Font, font, plain, shortened
from moleflow_fast.system.files import replacing

CELL = 58
MARGIN = 14
_LONGEST_NAME = 220  # pixels
_TILT = 60  # degrees, of the names of columns
# ColorBrewer's Blues (C. Brewer, Apache-2.0), from no image to all of them.
_BLUES = np.array(
    [(247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214), (66, 146, 198),
     (33, 113, 181), (8, 81, 156), (8, 48, 107)]
)  # fmt: skip
_INK, _LINES = (20, 20, 20), (190, 190, 190)


def draw_confusion(path: Path, confusion: NDArray[np.integer], tasks: Sequence[Sequence[str]]) -> None:
    """A PNG file: rows true tasks, columns routed ones, with counts.

    Args:
        confusion: (tasks, tasks).
        tasks: the classes of each.

    Raises:
        WriteFailed: the file cannot be written.
    """
    letters = font(13)
    names = [", ".join(classes) if len(classes) < 3 else f"task {t}" for t, classes in enumerate(tasks)]
    names = [shortened(plain(name), letters, _LONGEST_NAME) for name in names]
    tilted = [_tilted(name, letters) for name in names]
    left = MARGIN + 24 + round(max(map(letters.getlength, names))) + 10
    side = CELL * len(names)
    below = max(image.height for image in tilted) + 12
    # The first names may lean out to the left of the matrix.
    left = max(left, MARGIN + max(image.width - round((i + 0.5) * CELL) for i, image in enumerate(tilted)))
    canvas = Image.new("RGB", (left + side + MARGIN, MARGIN + side + below + 24 + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    for row, name in enumerate(names):
        y = MARGIN + row * CELL
        draw.text((left - 8, y + CELL // 2), name, _INK, letters, "rm")
        for i in range(len(names)):
            _cell(draw, left + i * CELL, y, int(confusion[row, i]), float(share[row, i]))
        ink = Image.new("RGB", tilted[row].size, _INK)
        end = left + row * CELL + CELL // 2 + 6  # right end of the name of a column
        canvas.paste(ink, (end - tilted[row].width, MARGIN + side + 8), tilted[row])
    draw.rectangle((left, MARGIN, left + side, MARGIN + side), outline=_LINES)
    draw.text((left + side // 2, canvas.height - MARGIN), "routed to", _INK, font(15), "mb")
    upright = _lettered("true task", font(15)).transpose(Image.Transpose.ROTATE_90)
    at = (MARGIN - 6, MARGIN + max(0, (side - upright.height) // 2))
    canvas.paste(Image.new("RGB", upright.size, _INK), at, upright)
    with replacing(path) as temporary:
        canvas.save(temporary, "PNG")


def _cell(draw: ImageDraw.ImageDraw, x: int, y: int, count: int, share: float) -> None:
    at = np.linspace(0, 1, len(_BLUES))
    blue = [round(float(np.interp(share, at, _BLUES[:, channel]))) for channel in range(3)]
    draw.rectangle((x, y, x + CELL, y + CELL), fill=(blue[0], blue[1], blue[2]), outline=_LINES)
    if count:
        ink = "white" if share > 0.5 else "black"
        letters = font(14 if count < 100_000 else 10)
        draw.text((x + CELL / 2, y + CELL / 2), str(count), ink, letters, "mm")


def _tilted(name: str, letters: Font) -> Image.Image:
    """Its top right corner is the name's end."""
    return _lettered(name, letters).rotate(_TILT, Image.Resampling.BICUBIC, expand=True)


def _lettered(text: str, letters: Font) -> Image.Image:
    """How much of the ink each pixel has."""
    left, top, right, bottom = (round(edge) for edge in letters.getbbox(text or " "))
    image = Image.new("L", (max(right, 1), max(bottom, 1)))
    ImageDraw.Draw(image).text((0, 0), text, 255, letters)
    return image
