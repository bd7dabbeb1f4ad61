"""Text in pictures, with Pillow alone."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size: int) -> Font:
    """DejaVu Sans in pixels, which knows most alphabets; Pillow's own font knows ASCII alone.

    It comes with matplotlib, which is not imported for it: that takes half a second.
    """
    package = importlib.util.find_spec("matplotlib")
    try:
        if package is None or package.origin is None:
            raise OSError("matplotlib is not installed")
        return ImageFont.truetype(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    except OSError as error:
        logger.warning("no DejaVu Sans (%s): letters beyond ASCII are boxes in pictures; install matplotlib", error)
        return ImageFont.load_default(size)


def plain(text: str) -> str:
    """One line that can be drawn: line breaks and tabs are spaces, undecodable bytes of file names are a mark."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shortened(text: str, letters: Font, width: float) -> str:
    """`text`, or as much of its beginning as fits into `width` pixels."""
    if letters.getlength(text) <= width:
        return text
    text = text[: int(width)]  # no letter is narrower than a pixel
    while text and letters.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrapped(text: str, letters: Font, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a word that is longer is shortened."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else ""
        if longer and letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, letters, width))
    return lines
