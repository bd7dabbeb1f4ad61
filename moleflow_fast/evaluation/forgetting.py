"""How much earlier tasks lost: forgetting measure and backward transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

History = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Forgetting:
    """Per earlier task j: `measure[j]` = max over t < T of R[t][j], minus R[T][j]; `transfer[j]` = R[T][j] - R[j][j].

    The last task has neither. A value that would need an evaluation that was not made is NaN; the means leave it out,
    and are NaN themselves when nothing is left.
    """

    measure: list[float]
    transfer: list[float]

    @property
    def mean_measure(self) -> float:
        return _mean(self.measure)

    @property
    def bwt(self) -> float:
        """Backward transfer (Lopez-Paz and Ranzato, 2017): the mean of `transfer`."""
        return _mean(self.transfer)


def forgetting(history: History) -> Forgetting:
    """From `history[t][j]`, the metric of task j after learning task t (j <= t); an empty row was not evaluated."""
    last = len(history) - 1
    measure, transfer = [], []
    for j in range(last):
        final = history[last][j]
        before = [row[j] for row in history[j:last] if row and not math.isnan(row[j])]
        measure.append(max(before, default=math.nan) - final)
        transfer.append(final - history[j][j] if history[j] else math.nan)
    return Forgetting(measure, transfer)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
