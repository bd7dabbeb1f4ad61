"""Tables of configurations against the baseline, and what they say in words."""

from __future__ import annotations

from collections.abc import Sequence

from moleflow_fast.report.configurations import Configuration, Group
from moleflow_fast.report.context import HEADLINE, NOTHING, Context, any_interval, mean_cell
from moleflow_fast.report.document import Block, Table, Text
from moleflow_fast.report.statistics import Difference


def comparison_table(
    context: Context, group: Group, first_column: str, rows: Sequence[tuple[str, Configuration]]
) -> Table:
    """Label, n, both headline metrics, both differences to the baseline, and their verdicts where there are any."""
    words = context.words
    differences = [[group.difference(c, metric) for metric in HEADLINE] for _, c in rows]
    judged = any_interval([d for pair in differences for d in pair])
    columns = [first_column, words("n"), *(words(metric) for metric in HEADLINE)]
    columns += [words("difference_in", metric=words(metric)) for metric in HEADLINE]
    columns += [words("verdict")] if judged else []
    table = []
    for (label, configuration), pair in zip(rows, differences, strict=True):
        is_baseline = configuration is group.baseline
        cells = [label, str(len(configuration.runs)), *(mean_cell(configuration, metric) for metric in HEADLINE)]
        cells += [NOTHING] * 2 if is_baseline else [context.differs(d) for d in pair]
        if judged:
            cells.append(NOTHING if is_baseline else " / ".join(context.verdict(d) for d in pair))
        table.append(cells)
    return Table(columns, table)


def distinct(rows: Sequence[tuple[str, Configuration]]) -> list[tuple[str, Configuration]]:
    """Rows whose labels differ: published rows may have one setting and several figures, and get their names too."""
    labels = [label for label, _ in rows]
    return [(label if labels.count(label) == 1 else f"{label}: {c.name}", c) for label, c in rows]


def reading(context: Context, group: Group, rows: Sequence[tuple[str, Configuration]]) -> list[Block]:
    """Which rows lie outside the noise, per headline metric; of what has no interval only that.

    Nothing for published rows: that none of them has an interval stands at the top of the report.
    """
    words = context.words
    if group.is_published:
        return []
    others = [(label, c) for label, c in rows if c is not group.baseline]
    judged = {metric: [(label, group.difference(c, metric)) for label, c in others] for metric in HEADLINE}
    if not any_interval([d for pairs in judged.values() for _, d in pairs]):
        return [Text(words("reading_no_interval"))]
    return [Text(" ".join(_sentence(context, metric, pairs) for metric, pairs in judged.items()))]


def _sentence(context: Context, metric: str, pairs: Sequence[tuple[str, Difference | None]]) -> str:
    words = context.words
    found = {
        verdict: [label for label, d in pairs if d is not None and d.verdict == verdict]
        for verdict in ("higher", "lower", "no_interval")
    }
    parts = [words(f"reading_{verdict}", labels=", ".join(labels)) for verdict, labels in found.items() if labels]
    return words("reading", metric=words(metric), text="; ".join(parts) or words("reading_noise"))
