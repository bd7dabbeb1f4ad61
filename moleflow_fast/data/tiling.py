"""A picture as overlapping squares along its long side, with Pillow alone: decoding processes have no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from .framing import scaled

STRIDE = 3 / 4  # of a square's side: what lies on the edge of one is at least an eighth inside another


@dataclass(frozen=True)
class Tiling:
    """The squares of a picture whose short side is resized to that of a square.

    Attributes:
        picture: (width, height) of the picture, pixels.
        side: of a square, pixels.
    """

    picture: tuple[int, int]
    side: int

    @cached_property
    def strip(self) -> tuple[int, int]:
        """(width, height) of the resized picture."""
        return scaled(self.picture, self.side)

    @property
    def is_upright(self) -> bool:
        """Whether the squares lie one below another, not side by side."""
        return self.strip[1] > self.strip[0]

    @property
    def length(self) -> int:
        """The long side of the strip, pixels."""
        return max(self.strip)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first pixel of each square along the strip: at equal distances, from one end to the other."""
        beyond = self.length - self.side
        steps = math.ceil(beyond / (STRIDE * self.side))
        return tuple(round(i * beyond / steps) for i in range(steps + 1)) if steps else (0,)

    def __len__(self) -> int:
        return len(self.starts)

    def resized(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        """The strip."""
        return image.resize(self.strip, resample)

    def square(self, strip: Image.Image, index: int) -> Image.Image:
        """One of the squares, cut out of the strip."""
        start = self.starts[index]
        left, top = (0, start) if self.is_upright else (start, 0)
        return strip.crop((left, top, left + self.side, top + self.side))
