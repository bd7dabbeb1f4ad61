"""Image AUROC against pixel AP, and the configurations that nothing surpasses in both."""

from __future__ import annotations

import math

from moleflow_fast.report import plots
from moleflow_fast.report.configurations import Configuration, Group
from moleflow_fast.report.context import HEADLINE, Context, mean_cell
from moleflow_fast.report.document import Block, Figure, Heading, Table, Text


def trade_off(context: Context) -> list[Block]:
    """The plot, and its Pareto front as a table with the numbers of the plot."""
    words, group = context.words, context.main
    blocks: list[Block] = [Heading(words("trade_off"))]
    placed = [c for c in context.ranked if not any(math.isnan(c.mean(metric)) for metric in HEADLINE)]
    if len(placed) < 3:
        return blocks + context.missing("missing_trade_off")
    front = pareto_front(group, placed)
    numbers = {id(configuration): number for number, configuration in enumerate(front, 1)}
    points = [
        plots.Point(c.mean("image_auroc"), c.mean("pixel_ap"), numbers.get(id(c)), c is group.baseline) for c in placed
    ]
    labels = (words("image_auroc"), words("pixel_ap"))
    svg, outside = plots.trade_off("trade-off", labels, points, words("baseline"))
    caption = words("trade_off_caption") + (f" {words('trade_off_outside', count=outside)}" if outside else "")
    columns = ("number", "configuration", "n", *HEADLINE)
    rows = [
        (str(numbers[id(c)]), c.name, str(len(c.runs)), *(mean_cell(c, metric) for metric in HEADLINE)) for c in front
    ]
    table = Table([words(column) for column in columns], rows)
    return blocks + [Figure("trade-off", svg, caption), Text(words("front_is_of_means")), table]


def pareto_front(group: Group, placed: list[Configuration]) -> list[Configuration]:
    """Those with higher pixel AP than everything with higher image AUROC, by falling image AUROC.

    Args:
        placed: by falling image AUROC, equals by falling pixel AP.
    """
    front: list[Configuration] = []
    for configuration in placed:
        if not front or configuration.mean("pixel_ap") > front[-1].mean("pixel_ap"):
            front.append(configuration)
    return front
