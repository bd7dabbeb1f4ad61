"""What is known about one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moleflow_fast.detector.regions import Region
from moleflow_fast.detector.view import FieldOfView

Label = Literal["normal", "defective", "unknown", "error"]


def _nothing() -> NDArray[np.float32]:
    return np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Result:
    """One image's label, scores and maps; of a file that cannot be read `label` is "error" and the numbers are NaN.

    An image that the nearest task does not know (`TaskCalibration.knows`) is "unknown"; its scores are those under that
    task and mean little.
    """

    source: Path | int
    """The file, or the place among the images that were given."""
    label: Label
    error: str | None = None
    """Why there is no result: names the file and the remedy."""
    task_id: int | None = None
    class_names: tuple[str, ...] = ()
    """The products of that task."""
    distances: Mapping[int, float] = field(default_factory=dict)
    """Routing distance to each task's prototype."""
    score: float = math.nan
    """Of the image, as the run's evaluation aggregates it."""
    calibrated: float = math.nan
    """In [0, 1], 0.5 at the 95% quantile of normal images of the task: means the same for every product."""
    regions: tuple[Region, ...] = ()
    """Where the anomaly map exceeds the task's pixel threshold, the highest peak first."""
    patch_map: NDArray[np.float32] = field(default_factory=_nothing)
    """-log p per patch (h, w)."""
    pixel_map: NDArray[np.float32] = field(default_factory=_nothing)
    """The patch map resized and smoothed as for the run's pixel metrics, over the field of view: (S, S), under tiles in
    the picture's own shape, short side S."""
    view: FieldOfView | None = None

    @property
    def distance(self) -> float:
        """To the nearest prototype."""
        return min(self.distances.values(), default=math.nan)

    @property
    def margin(self) -> float:
        """How much farther the second nearest prototype is; NaN with a single task."""
        nearest = sorted(self.distances.values())[:2]
        return nearest[1] - nearest[0] if len(nearest) == 2 else math.nan

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of the image, pixels."""
        return None if self.view is None else (self.view.width, self.view.height)

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """`pixel_map` at the image's own resolution (height, width); under --view crop NaN beyond the central square.

        Made when asked for, so that results of large photographs stay small. (0, 0) for an error.
        """
        return _nothing() if self.view is None else self.view.lay_over(self.pixel_map)
