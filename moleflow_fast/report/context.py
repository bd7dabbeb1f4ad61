"""What every section reads, and figures as they stand in its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from moleflow_fast.report.configurations import Configuration, Group, Grouped
from moleflow_fast.report.document import Block, Strong, Text
from moleflow_fast.report.rivals import Rivals
from moleflow_fast.report.runs import Found
from moleflow_fast.report.statistics import Difference
from moleflow_fast.report.words import Words

HEADLINE = ("image_auroc", "pixel_ap")
NOTHING = "\u2013"


@dataclass(frozen=True)
class Context:
    """The runs, their groups, and the language to tell of them."""

    words: Words
    found: Found
    grouped: Grouped
    rivals: Rivals = field(default_factory=dict)

    @property
    def main(self) -> Group:
        return self.grouped.groups[0]

    @cached_property
    def ranked(self) -> list[Configuration]:
        """Configurations of the main group by image AUROC, then pixel AP."""
        return ranking_of(self.main)

    def missing(self, key: str, **values: object) -> list[Block]:
        """The line that stands for a section which the data do not allow."""
        return [Text(self.words(key, **values))]

    # -- cells -------------------------------------------------------------------------------------------

    def differs(self, difference: Difference | None) -> str:
        """A difference with its interval, `+0.0027 [+0.0011, +0.0040]`; strong where the interval leaves 0 out."""
        if difference is None:
            return NOTHING
        text = signed(difference.value)
        if difference.low is None or difference.high is None:
            return text
        text += f" [{signed(difference.low)}, {signed(difference.high)}]"
        return Strong(text) if difference.verdict in ("higher", "lower") else text

    def verdict(self, difference: Difference | None) -> str:
        return NOTHING if difference is None else self.words(f"verdict_{difference.verdict}")


def ranking_of(group: Group) -> list[Configuration]:
    """By image AUROC, then pixel AP; what has no figure stands last, the order of the input decides equals."""

    def key(configuration: Configuration) -> tuple[float, float]:
        image, pixel = (configuration.mean(metric) for metric in HEADLINE)
        return -_or_least(image), -_or_least(pixel)

    return sorted(group.configurations, key=key)


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def mean_cell(configuration: Configuration, metric: str) -> str:
    """`0.9793 ± 0.0012`, the deviation where there are two seeds."""
    value, deviation = configuration.mean(metric), configuration.deviation(metric)
    if math.isnan(value):
        return NOTHING
    return four(value) if math.isnan(deviation) else f"{four(value)} \u00b1 {four(deviation)}"


def percent(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{100 * value:.2f}%"


def four(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"


def signed(value: float) -> str:
    """Four digits with a sign; what rounds to zero has none."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text


def any_interval(differences: Sequence[Difference | None]) -> bool:
    return any(d is not None and d.has_interval for d in differences)
