"""What each component of the method is worth: the baseline without it."""

from __future__ import annotations

import math

from moleflow_fast.report.configurations import Configuration
from moleflow_fast.report.context import NOTHING, Context
from moleflow_fast.report.document import Block, Heading, Table, Text
from moleflow_fast.report.factors import COMPONENT, COMPONENTS
from moleflow_fast.report.sections.comparisons import comparison_table, distinct, reading
from moleflow_fast.report.words import Words

# Least loss of image AUROC for five, four, three and two stars; less is one.
STARS = ((0.03, 5), (0.01, 4), (0.0025, 3), (0.001, 2))


def components(context: Context) -> list[Block]:
    """One row a switch, the largest loss of image AUROC first, with stars by a stated rule."""
    words, group = context.words, context.main
    blocks: list[Block] = [Heading(words("components"))]
    found = distinct([(_label(words, factor), c) for factor in COMPONENTS for c in group.single(factor)])
    if not found:
        return blocks + context.missing("missing_components", baseline=group.baseline.name)
    found.sort(key=lambda row: -_loss(context, row[1]))
    table = comparison_table(context, group, words("component"), [(words("full_model"), group.baseline), *found])
    importance = [NOTHING, *(stars(_loss(context, c)) for _, c in found)]
    rows = [[row[0], mark, *row[1:]] for row, mark in zip(table.rows, importance, strict=True)]
    blocks.append(Table([table.columns[0], words("importance"), *table.columns[1:]], rows))
    rule = ", ".join(f"\u2265 {loss:g}: {count}" for loss, count in STARS)
    return [*blocks, Text(words("stars_rule", rule=rule)), *reading(context, group, found)]


def stars(loss: float) -> str:
    """Importance of a component by the image AUROC that the method loses without it."""
    count = next((count for least, count in STARS if loss >= least), 1)
    return "\u2605" * count + "\u2606" * (5 - count)


def _label(words: Words, factor: str) -> str:
    return words.or_same("component", factor.removeprefix(COMPONENT))


def _loss(context: Context, configuration: Configuration) -> float:
    difference = context.main.difference(configuration, "image_auroc")
    # Differences of four-digit figures: 0.9793 - 0.9768 is 0.0025, whatever a binary fraction makes of it.
    return -math.inf if difference is None else -round(difference.value, 6)
