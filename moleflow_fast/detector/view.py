"""Which part of a picture the model sees, and its map laid over the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moleflow_fast.data.framing import scaled


@dataclass(frozen=True)
class FieldOfView:
    """The part of a picture that a model sees, in the picture's own pixels."""

    width: int
    """Of the whole picture."""
    height: int
    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, width: int, height: int, size: int, view: str = "crop") -> FieldOfView:
        """All of it; under the view "crop" what is left where the short side goes to `size` and the centre is cropped.

        Args:
            view: one of `config.learning_options.VIEWS`.
        """
        if view != "crop":
            return cls(width, height, 0, 0, width, height)
        across = scaled((width, height), size)
        left, right = _seen(width, across[0], size)
        top, bottom = _seen(height, across[1], size)
        return cls(width, height, left, top, right, bottom)

    @property
    def is_whole(self) -> bool:
        return (self.left, self.top, self.right, self.bottom) == (0, 0, self.width, self.height)

    def on(self, width: int, height: int) -> FieldOfView:
        """The same part of a copy of the picture of another size."""
        x, y = width / self.width, height / self.height
        left, top = min(round(self.left * x), width - 1), min(round(self.top * y), height - 1)
        right, bottom = max(round(self.right * x), left + 1), max(round(self.bottom * y), top + 1)
        return FieldOfView(width, height, left, top, right, bottom)

    def lay_over(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map of that part resized (bilinear) to the picture (height, width); NaN where the model does not look."""
        size = (self.right - self.left, self.bottom - self.top)
        resized = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
        if self.is_whole:
            return resized
        whole = np.full((self.height, self.width), np.nan, dtype=np.float32)
        whole[self.top : self.bottom, self.left : self.right] = resized
        return whole


def _seen(length: int, resized: int, size: int) -> tuple[int, int]:
    start = round((resized - size) / 2)
    first = round(start * length / resized)
    return first, max(round((start + size) * length / resized), first + 1)
