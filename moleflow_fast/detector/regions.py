"""Where a map exceeds a threshold: connected regions with box, area and peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moleflow_fast._compiled import compiled


@dataclass(frozen=True)
class Region:
    """An 8-connected region, in pixels of the original image; `right` and `bottom` lie just outside of it."""

    left: int
    top: int
    right: int
    bottom: int
    area: int
    """Pixels above the threshold."""
    peak: float
    """Largest value of the map in it."""


def find_regions(values: NDArray[np.floating], threshold: float) -> tuple[Region, ...]:
    """The 8-connected regions of `values` (H, W) above `threshold`, the highest peak first; NaN lies in none."""
    values = np.ascontiguousarray(values)
    found = compiled.find_regions(values, (values > threshold).view(np.uint8))
    return tuple(sorted((Region(*region) for region in found), key=lambda r: (-r.peak, r.top, r.left)))
