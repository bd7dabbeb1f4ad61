"""How much earlier tasks lost: forgetting measure and backward transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

History = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Forgetting:
    """Per earlier task j: `measure[j]` = max over t < T of R[t][j], minus R[T][j]; `transfer[j]` = R[T][j] - R[j][j].

    The last task has neither. The means are NaN for a single task.
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
    """From `history[t][j]`, the metric of task j after learning task t (j <= t)."""
    last = len(history) - 1
    measure, transfer = [], []
    for j in range(last):
        earlier = [history[t][j] for t in range(j, last)]
        measure.append(max(earlier) - history[last][j])
        transfer.append(history[last][j] - history[j][j])
    return Forgetting(measure, transfer)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
