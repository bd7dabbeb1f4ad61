"""From raw scores, which no two products share a scale of, to scores that mean the same for every product.

    z = (score - q95) / (q95 - q50)        quantiles of the scores of a task's normal images
    calibrated = 1/2 + z / (2 (1 + |z|))

The median normal image gets 0.25 and 0.5 is passed by one normal image in twenty; as far beyond that again is 0.75. Two
quantiles are what few images can carry: no shape is fitted, and no single outlier decides. The tail falls off as 1/z
and not exponentially, because scores of defects lie many spreads out and must stay apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moleflow_fast.detector import normal_scores
from moleflow_fast.detector.normal_scores import QUANTILE, CalibrationError

ENOUGH_IMAGES = 20  # with fewer than 19, the quantile is the highest score: one in n + 1 new images passes it
SMALLEST_SPREAD = 1e-6  # of the threshold: scores of normal images may all be the same
NARROWEST = 1.5  # limit of routing, as a multiple of the largest distance of an image of the task's own
WITHOUT_OTHERS = 5.0  # the same where the run knows no other product to compare with
COMPARED = 1.1  # instead of `NARROWEST` where distances are compared
CLEARLY_NEARER = 0.72  # of two distances that are compared
LEVEL = 0.5  # the calibrated score at the quantile


@dataclass(frozen=True)
class TaskCalibration:
    """What is normal for one task."""

    task_id: int
    class_names: tuple[str, ...]
    images: int
    """Normal images that the scores and pixels rest on."""
    not_held_out: tuple[str, ...]
    """Classes without normal test images whose training images stand in as they are: their scores are too low."""
    median: float
    """Of the raw image scores."""
    threshold: float
    """Their `QUANTILE`."""
    pixel_median: float
    """Of normal pixels: the median over images of each map's median."""
    pixel_threshold: float
    """The `QUANTILE` of the highest pixel of each normal map: one normal image in twenty shows a region."""
    largest_distance: float
    """Of an image of its own, trained on or held out, to its prototype."""
    nearest_other: float | None
    """Smallest distance of another task's image to its prototype; None with a single task."""
    cross_fitted: int = 0
    """Of `images` those trained on, each measured behind a Gaussian front that was estimated without it."""
    compares_distances: bool = False
    """Whether distances to all tasks' prototypes are measured alike: with one covariance."""
    scores: tuple[float, ...] = ()
    """The finite ones that `median` and `threshold` are of, ascending; none in files older than they are."""
    grey_level: float = 0.0
    """Of a task whose training images hardly differ: how far a score may lie over the median, see `grey_levels`."""

    @property
    def distance_limit(self) -> float:
        """Beyond it an image is no product of this task, unless `far_limit` says otherwise.

        Half way from the farthest of its own normal images to the nearest image of another product, and at least
        `NARROWEST` times the former. A fixed multiple would not do: severe defects lie several times as far out as any
        normal image where distances are Mahalanobis, and other products hardly so where they are Euclidean.
        """
        if self.compares_distances:
            return COMPARED * self.largest_distance
        if self.nearest_other is None:
            return WITHOUT_OTHERS * self.largest_distance
        return max((self.largest_distance + self.nearest_other) / 2, NARROWEST * self.largest_distance)

    @property
    def far_limit(self) -> float:
        """Beyond it an image is no product of this task, however far the other products are.

        Where distances are compared, an image between the two limits is known if it lies clearly nearer to this product
        than to any other: so severe defects do, and images of a product that the run has not seen mostly do not.
        """
        if not self.compares_distances:
            return self.distance_limit
        if self.nearest_other is None:
            return WITHOUT_OTHERS * self.largest_distance
        return max(self.distance_limit, self.nearest_other)

    @property
    def spread(self) -> float:
        """Unit of z: from the median to the threshold, never 0."""
        return max(self.threshold - self.median, SMALLEST_SPREAD * max(abs(self.threshold), 1.0))

    @property
    def least_false_alarms(self) -> float:
        """The smallest fraction of new normal images that so few images can tell, nan where scores are not known."""
        return 1 / (len(self.scores) + 1) if self.scores else math.nan

    def threshold_at(self, false_alarms: float) -> float:
        """The raw score that such a fraction of new normal images passes, or `least_false_alarms`.

        Raises:
            CalibrationError: a file older than the scores in it.
        """
        if not self.scores:
            raise CalibrationError(
                f"the calibration of {', '.join(self.class_names)} was made by an older version, which kept no scores "
                "to tell false alarms from: moleflow calibrate RUN makes it anew"
            )
        return normal_scores.threshold(self.scores, self.cross_fitted > 0, self.grey_level, 1 - false_alarms)

    def score_at(self, calibrated: float) -> float:
        """The raw score that `calibrated` gives this value in 0..1 for; infinite at both ends."""
        y = 2 * (calibrated - LEVEL)
        if abs(y) >= 1:
            return math.copysign(math.inf, y)
        return self.threshold + self.spread * y / (1 - abs(y))

    def calibrated(self, score: float) -> float:
        """A raw score in [0, 1]: rises with it, 0.5 at `threshold`."""
        z = (score - self.threshold) / self.spread
        if math.isinf(z):
            return float(z > 0)
        return LEVEL + z / (2 * (1 + abs(z)))

    def knows(self, distance: float, runner_up: float = math.inf) -> bool:
        """Whether an image so far from the prototype may be of this task; not if it could not be computed.

        Args:
            runner_up: its distance to the nearest of the other tasks.
        """
        if distance <= self.distance_limit:
            return True
        return distance <= self.far_limit and distance <= CLEARLY_NEARER * runner_up


@dataclass(frozen=True)
class Calibration:
    """All tasks of a run."""

    tasks: dict[int, TaskCalibration]

    @property
    def warnings(self) -> list[str]:
        """What the numbers suffer from, in plain words."""
        few = [f"task {t.task_id}: {t.images}" for t in self.tasks.values() if t.images < ENOUGH_IMAGES]
        standing_in = [name for task in self.tasks.values() for name in task.not_held_out]
        alike = [", ".join(task.class_names) for task in self.tasks.values() if task.grey_level > 0]
        warnings = []
        if alike:
            warnings.append(
                f"training images of {'; '.join(alike)} hardly differ (by less than a tenth of a grey level), as one "
                "picture and its copies do: what varies by more than one grey level may be called defective or "
                "unknown; train with images as the camera takes them"
            )
        if few:
            warnings.append(
                f"thresholds of few normal images are rough ({', '.join(few)}); {ENOUGH_IMAGES} or more a task in "
                "test/good make them steady, or in a folder for moleflow calibrate"
            )
        if standing_in:
            warnings.append(
                f"no normal test images of {', '.join(standing_in)}: thresholds rest on training images, which are "
                "not held out, and will call too many images defective; put normal images into test/good"
            )
        return warnings

    def of(self, tasks: Iterable[int]) -> Calibration:
        """Of these tasks alone."""
        return Calibration({t: self.tasks[t] for t in tasks if t in self.tasks})

    def to_json(self) -> dict[str, Any]:
        tasks = self.tasks.values()
        normal = {str(task.task_id): {name: getattr(task, name) for name in _NORMAL} for task in tasks if task.scores}
        return {"quantile": QUANTILE, "tasks": [_to_json(task) for task in tasks], "normal": normal}

    @classmethod
    def from_json(cls, content: Any, file: Path) -> Calibration:
        """
        Raises:
            CalibrationError: not what `to_json` gives, or of another quantile.
        """
        try:
            normal = content.get("normal", {})
            tasks = [_task(values | normal.get(str(values["task_id"]), {})) for values in content["tasks"]]
            same = content["quantile"] == QUANTILE
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CalibrationError(f"{file} is damaged ({error!r}); delete it to have it computed again") from error
        if not same:
            raise CalibrationError(f"{file}: its quantile is not {QUANTILE}; delete it to have it computed again")
        if not tasks:
            raise CalibrationError(f"{file} is damaged (no tasks); delete it to have it computed again")
        return cls({task.task_id: task for task in tasks})


_NORMAL = ("scores", "grey_level")  # apart from the rest, which older versions read and people look at


def _to_json(task: TaskCalibration) -> dict[str, Any]:
    values = {**asdict(task), "distance_limit": task.distance_limit}
    for name in _NORMAL:
        del values[name]
    if task.compares_distances:
        return {**values, "far_limit": task.far_limit, "clearly_nearer": CLEARLY_NEARER}
    del values["compares_distances"]  # files of the published rule are read by older versions
    return values


def _task(values: dict[str, Any]) -> TaskCalibration:
    derived = ("distance_limit", "far_limit", "clearly_nearer")
    known = {name: value for name, value in values.items() if name not in derived}
    for name in ("class_names", "not_held_out"):
        known[name] = tuple(known[name])
    return TaskCalibration(**{**known, "scores": tuple(map(float, known.get("scores", ())))})
