"""Whether an exported program says of images what the detector says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moleflow_fast.detector.detector import Detector
from moleflow_fast.errors import UserError
from moleflow_fast.export.program import LABELS, OUTPUTS

Answers = Mapping[str, NDArray]
"""`OUTPUTS` by name, images in front."""
Runtime = Callable[[NDArray[np.uint8]], Answers]
"""From images (B, S, S, 3)."""

TRACED_BATCH = 2
BATCHES = (1, 3, 5)  # none of them the traced one
TOLERANCE = 1e-4  # of scores and maps
# Precisions of prototypes have conditions of 1e6: the last bits of a feature grow a thousandfold in a distance.
DISTANCE_TOLERANCE = 1e-2
_NO_DISTANCE = 1e-6


class NotTheSame(UserError):
    """An exported program that says something else than the detector."""


@dataclass(frozen=True)
class Parity:
    """The largest differences between two sets of answers about the same images.

    Scores and distances relative to themselves, maps to the largest magnitude of the same image's map; below 1 nat
    scores and maps count absolutely. A label counts as another one unless the score, or the distance, lies on a
    boundary.
    """

    images: int
    score: float
    calibrated: float
    """Absolute: it lies in 0..1."""
    distances: float
    patch_map: float
    pixel_map: float
    other_routes: int
    other_labels: int

    @property
    def maps(self) -> float:
        return max(self.patch_map, self.pixel_map)

    def problems(self) -> list[str]:
        """What is wrong, in words; nothing where the two agree."""
        limits = {"score": TOLERANCE, "patch_map": TOLERANCE, "pixel_map": TOLERANCE, "distances": DISTANCE_TOLERANCE}
        found = [
            f"{name} differs by {getattr(self, name):.1e}, allowed are {limit:.0e}"
            for name, limit in limits.items()
            if not getattr(self, name) <= limit
        ]
        if self.other_routes:
            found.append(f"{self.other_routes} of {self.images} images are routed to another task")
        if self.other_labels:
            found.append(f"{self.other_labels} of {self.images} images have another label")
        return found

    def worse(self, other: Parity) -> Parity:
        """The larger figure of each kind."""
        return Parity(**{f.name: max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Checked:
    """One runtime's result."""

    runtime: str
    parity: Parity
    milliseconds: float
    """Per image, on this machine, at batches of `BATCHES`: rough."""

    def to_json(self) -> dict[str, object]:
        figures = asdict(self.parity)
        rounded = {name: v if isinstance(v, int) else float(f"{v:.3g}") for name, v in figures.items()}
        milliseconds = round(self.milliseconds, 2)
        return {"runtime": self.runtime, "batches": list(BATCHES), **rounded, "milliseconds": milliseconds}


def enough(paths: Sequence[Path]) -> list[Path]:
    """The paths, repeated where they are too few for a batch of each size."""
    return [path for path, _ in zip(cycle(paths), range(max(len(paths), sum(BATCHES))), strict=False)]


def of_detector(detector: Detector, images: Sequence[Path] | NDArray[np.uint8]) -> Answers:
    """What the detector says of image files, or of images (N, H, W, 3)."""
    results = detector.predict(images)
    same = [name for name in OUTPUTS if name not in ("distances", "label")]
    values = {name: np.array([getattr(r, name) for r in results]) for name in same}
    distances = np.array([list(r.distances.values()) for r in results])
    return {**values, "distances": distances, "label": np.array([LABELS.index(r.label) for r in results])}


def check(
    name: str, runtime: Runtime, images: NDArray[np.uint8], expected: Sequence[Answers], detector: Detector
) -> Checked:
    """Run images (N, S, S, 3) in batches of `BATCHES` and compare with each of the expected answers.

    Raises:
        NotTheSame: they do not agree.
    """
    answers, milliseconds = _run(runtime, images)
    parity = reduce(Parity.worse, (compare(answers, one, detector) for one in expected))
    if problems := parity.problems():
        raise NotTheSame(f"the program in {name} does not say what the detector says: {'; '.join(problems)}")
    return Checked(name, parity, milliseconds)


def compare(answers: Answers, expected: Answers, detector: Detector) -> Parity:
    """Of two sets of answers about the same images; what is not a number is infinitely far off."""
    routes = answers["task_id"] != expected["task_id"]
    labels = (answers["label"] != expected["label"]) & ~_on_a_boundary(expected, detector)
    return Parity(
        images=len(routes),
        score=_largest(answers, expected, "score", np.abs(expected["score"]).clip(1)),
        calibrated=_largest(answers, expected, "calibrated", np.ones(1)),
        distances=_largest(answers, expected, "distances", np.abs(expected["distances"]).clip(_NO_DISTANCE)),
        patch_map=_largest(answers, expected, "patch_map", _peaks(expected["patch_map"])),
        pixel_map=_largest(answers, expected, "pixel_map", _peaks(expected["pixel_map"])),
        other_routes=int(routes.sum()),
        other_labels=int(labels.sum()),
    )


def _run(runtime: Runtime, images: NDArray[np.uint8]) -> tuple[Answers, float]:
    """Answers, and milliseconds per image; each size of batch is tried once before it counts."""
    for size in BATCHES:
        runtime(images[:size])
    start = time.perf_counter()
    parts = [runtime(images[places]) for places in _batches(len(images))]
    milliseconds = (time.perf_counter() - start) / len(images) * 1000
    return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}, milliseconds


def _batches(count: int) -> Iterator[slice]:
    sizes, start = cycle(BATCHES), 0
    while start < count:
        end = min(start + next(sizes), count)
        yield slice(start, end)
        start = end


def _on_a_boundary(expected: Answers, detector: Detector) -> NDArray[np.bool_]:
    """Where a difference within the tolerance decides about the label."""
    return np.array([_is_on_a_boundary(expected, i, detector) for i in range(len(expected["task_id"]))])


def _is_on_a_boundary(expected: Answers, image: int, detector: Detector) -> bool:
    task = detector.calibration.tasks[int(expected["task_id"][image])]
    score, (distance, *further) = float(expected["score"][image]), sorted(map(float, expected["distances"][image]))
    margin = TOLERANCE * max(abs(score), 1.0)
    defective = {detector.limits[task.task_id].passed_by(score + d) for d in (-margin, margin)}
    runner_up = further[0] if further else math.inf
    known = {task.knows(distance * (1 + d), runner_up * (1 - d)) for d in (-DISTANCE_TOLERANCE, DISTANCE_TOLERANCE)}
    return len(defective) > 1 or len(known) > 1


def _largest(answers: Answers, expected: Answers, name: str, scale: NDArray) -> float:
    relative = np.abs(answers[name].astype(np.float64) - expected[name]) / scale
    return float(np.nan_to_num(relative, nan=np.inf).max())


def _peaks(maps: NDArray) -> NDArray:
    """Largest magnitude of each map, (N, 1, 1)."""
    return np.abs(maps).max((1, 2), keepdims=True).clip(1)
