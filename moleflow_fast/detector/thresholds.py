"""From what people ask for, a calibrated score, a raw one or a rate of false alarms, to a limit by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moleflow_fast.config.threshold_options import ALL, Level
from moleflow_fast.detector.calibration import LEVEL, Calibration, TaskCalibration
from moleflow_fast.detector.normal_scores import room
from moleflow_fast.errors import UserError

_BEYOND = 2e30  # no score lies there, and unlike inf it is a number for every runtime


@dataclass(frozen=True)
class Limit:
    """Above which score an image of a task is defective.

    Attributes:
        score: raw, a number of fp32, as scores are: so detectors and exported programs compare the same two numbers.
        calibrated: the same score, calibrated.
        note: what its owner should know of it; empty where there is nothing to say.
    """

    score: float
    calibrated: float
    note: str = ""

    def passed_by(self, score: float) -> bool:
        """Whether an image of such a raw score, a number of fp32, is defective."""
        return score > self.score


def limits_of(calibration: Calibration, threshold: Level | None, false_alarms: Level | None) -> dict[int, Limit]:
    """The limit of each task.

    Args:
        threshold: in 0..1 a calibrated score above which, else a raw one from which on, images are defective; raw ones
            only by product, or where there is one task.
        false_alarms: instead of it, the fraction of normal images that may be called defective.

    Raises:
        UserError: a product that is not known, one with both, or numbers that cannot be.
    """
    asked = {"--threshold": _by_product(threshold), "--false_alarms": _by_product(false_alarms)}
    _require_known(calibration, asked)
    if all(ALL in of_option for of_option in asked.values()):
        raise UserError("--threshold and --false_alarms say the same thing: give one of them")
    return {task.task_id: _limit(task, asked, len(calibration.tasks) == 1) for task in calibration.tasks.values()}


def _by_product(level: Level | None) -> Mapping[str, float]:
    if level is None:
        return {}
    return level if isinstance(level, Mapping) else {ALL: level}


def _require_known(calibration: Calibration, asked: Mapping[str, Mapping[str, float]]) -> None:
    known = [name for task in calibration.tasks.values() for name in task.class_names]
    for option, of_option in asked.items():
        for name in of_option:
            if name != ALL and name not in known:
                raise UserError(f"{option} {name}=...: the run knows no {name}; it knows {', '.join(known)}")


def _limit(task: TaskCalibration, asked: Mapping[str, Mapping[str, float]], alone: bool) -> Limit:
    named = {(o, of[name]) for o, of in asked.items() for name in task.class_names if name in of}
    if len(named) > 1:
        raise UserError(
            f"{', '.join(task.class_names)}: two limits for one task; give one of --threshold and --false_alarms, and "
            "one number for products that were learned together"
        )
    general = {(o, of[ALL]) for o, of in asked.items() if ALL in of}
    option, value = next(iter(named or general or {("--threshold", LEVEL)}))
    if option == "--false_alarms":
        return _of_rate(task, value)
    return _of_threshold(task, value, by_name=bool(named) or alone)


def _of_threshold(task: TaskCalibration, value: float, by_name: bool) -> Limit:
    if 0 <= value <= 1:
        return Limit(_rounded(task.score_at(value)), value)
    if not by_name or not np.isfinite(value):
        raise UserError(
            f"--threshold must lie in 0..1, where calibrated scores are, got {value}; a raw score is of one product: "
            f"{task.class_names[0]}={value}"
        )
    raw, note = value - room(value), ""  # an image of that very score is on the defective side of it
    if raw < task.median:
        note = f"most normal images of {_names(task)} have raw scores above {value:g}: their median is {task.median:g}"
    return Limit(_rounded(raw), task.calibrated(raw), note)


def _of_rate(task: TaskCalibration, rate: float) -> Limit:
    if not 0 < rate < 1:
        raise UserError(f"--false_alarms must lie between 0 and 1, 0.01 is one normal image in a hundred; got {rate}")
    raw, note = task.threshold_at(rate), ""
    if rate < task.least_false_alarms:
        images = len(task.scores)
        note = (
            f"{images} normal images of {_names(task)} cannot tell {rate:g} false alarms, only 1 in {images + 1} and "
            "more: that is taken; calibrate with more normal images (moleflow calibrate)"
        )
    return Limit(_rounded(raw), task.calibrated(raw), note)


def _rounded(score: float) -> float:
    return float(np.float32(np.clip(score, -_BEYOND, _BEYOND)))


def _names(task: TaskCalibration) -> str:
    return ", ".join(task.class_names)
