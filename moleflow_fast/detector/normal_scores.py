"""Thresholds from the scores of normal images, by how many new normal images pass them.

Of n scores the one in place k is passed by a new one with probability 1 - k / (n + 1), whatever their distribution. So
what a fraction r passes stands in place (1 - r) (n + 1), interpolated between neighbours. It is the highest score where
r is below 1 / (n + 1): so few false alarms cannot be known from n images.

A threshold lies between scores, not on one: another processor, batch or number of threads gives the same image another
last bit, and it would get another label. It keeps a tenth of the gap, at least `ROUNDING`, from both neighbours, and a
tenth of the last gap from the highest score. So its place moves by a tenth at most, and its rate by 0.1 / (n + 1).
Scores within twice the rounding of each other count as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from moleflow_fast.errors import UserError

QUANTILE = 0.95
ROUNDING = 1e-5  # of a score, below 1 nat absolute: what backends and exported programs differ by in fp32
_CLEAR = 0.1  # of a gap between scores
_SMOOTHED = 10  # images whose highest score counts for nothing by itself, see `threshold`

Values = Sequence[float] | NDArray[np.floating]


class CalibrationError(UserError):
    """A run without the numbers that a detector needs."""


def finite(values: Values) -> NDArray[np.float64]:
    """Those that are finite, ascending.

    Raises:
        CalibrationError: none is.
    """
    array = np.asarray(values, dtype=np.float64)
    found = np.sort(array[np.isfinite(array)])
    if len(found) == 0:
        raise CalibrationError("no normal image of a task has a finite score: the flow has diverged; train it again")
    return found


def median(values: Values) -> float:
    """Of the finite values."""
    return float(np.quantile(finite(values), 0.5, method="weibull"))


def threshold(values: Values, left_out: bool, grey_level: float = 0.0, quantile: float = QUANTILE) -> float:
    """What a fraction 1 - quantile of new normal images passes, see the module; at least `grey_level` over the median.

    Args:
        left_out: whether each was measured behind a front that was estimated without its image. The oddest of few
            images is missed most where it is left out: its score is higher than a new one as odd would get, and it is
            what the quantile rests on. Of 20 images of five products 2.4 to 4.5% of new ones passed it. So it counts
            half at 20, and less the more there are; the other half is the quantile of a normal distribution of their
            mean and deviation, as uncertain as n values leave it (Student's t).
        grey_level: see `TaskCalibration.grey_level`.
    """
    scores = finite(values)
    high = float(np.quantile(scores, quantile, method="weibull"))
    n = len(scores)
    if left_out and n > 2:  # one deviation says nothing
        known = min(quantile, max(QUANTILE, n / (n + 1)))
        smooth = scores.mean() + _student(n - 1, known) * scores.std(ddof=1) * math.sqrt(1 + 1 / n)
        weight = min(1.0, _SMOOTHED / n)
        high = float(weight * smooth + (1 - weight) * high)
    return _between(max(high, median(scores) + grey_level), scores)


def room(*scores: float) -> float:
    """What rounding may move any of these scores by."""
    return ROUNDING * max(1.0, *map(abs, scores))


def _between(value: float, scores: NDArray[np.float64]) -> float:
    """The value, clear of ascending scores; it is at least the lowest, and goes up beyond those that count as one."""
    above = int(np.searchsorted(scores, value, side="right"))
    for low, high in zip(scores[above - 1 :].tolist(), scores[above:].tolist(), strict=False):
        if high - low >= 2 * room(low, high):
            clear = max(room(low, high), _CLEAR * (high - low))
            return min(max(value, low + clear), high - clear)
    highest = float(scores[-1])
    return max(value, highest + max(room(highest), _CLEAR * (highest - float(scores[-2:][0]))))


def _student(degrees: int, quantile: float) -> float:
    """A quantile of Student's t: expansion 26.7.5 of Abramowitz and Stegun, within 1.3% at 0.95 from 2 degrees on."""
    z = NormalDist().inv_cdf(quantile)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
