"""The groups beside each other, and the classes of the main one."""

from __future__ import annotations

import math

from moleflow_fast.report.configurations import Configuration, Group
from moleflow_fast.report.context import HEADLINE, NOTHING, Context, four, percent, ranking_of, signed
from moleflow_fast.report.document import Block, Details, Heading, Table, Text
from moleflow_fast.report.sections.comparisons import comparison_table
from moleflow_fast.report.sections.overview import describe
from moleflow_fast.report.sections.ranking import with_baseline
from moleflow_fast.report.statistics import mean


def data_sets(context: Context) -> list[Block]:
    """One row a group; every group but the main one with its own ranking."""
    words, groups = context.words, context.grouped.groups
    columns = ("data", "count_configurations", "highest_image_auroc", "highest_pixel_ap", "routing_accuracy")
    rows = [
        (
            describe(context, group),
            str(len(group.configurations)),
            *(_highest(group, metric) for metric in HEADLINE),
            percent(group.baseline.mean("routing_accuracy")),
        )
        for group in groups
    ]
    blocks: list[Block] = [Heading(words("data_sets")), Text(words("data_sets_lead"))]
    blocks.append(Table([words(column) for column in columns], rows))
    for group in groups[1:]:
        if len(group.configurations) > 1:
            blocks.append(_ranking(context, group))
    return blocks


def _highest(group: Group, metric: str) -> str:
    known = [c for c in group.configurations if not math.isnan(c.mean(metric))]
    if not known:
        return NOTHING
    top = max(known, key=lambda c: c.mean(metric))
    return f"{four(top.mean(metric))} {top.name}"


def _ranking(context: Context, group: Group) -> Details:
    words = context.words
    rows = [(with_baseline(context, c.name) if c is group.baseline else c.name, c) for c in ranking_of(group)]
    why = words("baseline_is", name=group.baseline.name, why=words(group.why), seeds=_seeds(group.baseline))
    summary = words("ranking_of", group=describe(context, group), count=len(rows))
    return Details(summary, [Text(why), comparison_table(context, group, words("configuration"), rows)])


def _seeds(configuration: Configuration) -> str:
    return ", ".join(map(str, configuration.seeds))


def classes(context: Context) -> list[Block]:
    """Every class under the baseline and under the configuration with the highest mean image AUROC."""
    words, group = context.words, context.main
    blocks: list[Block] = [Heading(words("classes"))]
    if not group.classes:
        return blocks + context.missing("missing_classes")
    top, base = context.ranked[0], group.baseline
    compared = top is not base
    blocks.append(Text(words("classes_lead", baseline=base.name, top=top.name) if compared else words("classes_alone")))
    columns = [words("class_name")]
    for metric in (*HEADLINE, "routing_accuracy"):
        columns.append(words("of_baseline", metric=words(metric)))
        columns += [words("of_top", metric=words(metric)), words("top_minus_baseline")] if compared else []
    rows = []
    for name in group.classes:
        row = [name]
        for metric in (*HEADLINE, "routing_accuracy"):
            ours, theirs = class_mean(top, metric, name), class_mean(base, metric, name)
            row.append(four(theirs))
            row += [four(ours), NOTHING if math.isnan(ours - theirs) else signed(ours - theirs)] if compared else []
        rows.append(row)
    return [*blocks, Table(columns, rows)]


def class_mean(configuration: Configuration, metric: str, name: str) -> float:
    """Mean over seeds of one class."""
    return mean([values[name] for values in configuration.per_class(metric).values() if name in values])
