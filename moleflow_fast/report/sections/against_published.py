"""Published differences to the baseline beside measured ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from moleflow_fast.report.configurations import Configuration, Group, published_difference
from moleflow_fast.report.context import HEADLINE, NOTHING, Context, four, signed
from moleflow_fast.report.document import Block, Heading, Table, Text
from moleflow_fast.report.factors import departures, effective_options
from moleflow_fast.report.published_rows import options_of_presets, published_figures
from moleflow_fast.report.statistics import Difference

# What a measured difference is to a published one; each has its words under `sign_...`.
SIGNS = ("agrees", "disagrees", "noise", "no_interval", "equal")


def published_against_measured(context: Context) -> list[Block]:
    """One row a preset, with a count of what agrees."""
    words, group = context.words, context.main
    blocks: list[Block] = [Heading(words("published"))]
    if group.is_published or not group.baseline.presets:
        return blocks + context.missing("missing_published")
    pairs = [(c, name) for c in group.configurations for name in c.presets]
    compared = [(c, name) for c, name in pairs if _same_step(group, c, name)]
    if not any(c is not group.baseline for c, _ in compared):
        return blocks + context.missing("missing_published")
    counts = {metric: Counter(_sign(group, c, n, metric) for c, n in compared) for metric in HEADLINE}
    for metric in HEADLINE:
        numbers = {sign: counts[metric][sign] for sign in SIGNS}
        blocks.append(Text(words("published_counts", metric=words(metric), **numbers)))
    blocks.append(_table(context, compared))
    skipped = sorted(name for c, name in pairs if (c, name) not in compared)
    if skipped:
        blocks.append(Text(words("published_skipped", names=", ".join(skipped))))
    return blocks


def _same_step(group: Group, configuration: Configuration, name: str) -> bool:
    """Whether a preset differs from the published baseline in just what was measured."""
    known = options_of_presets()
    published = departures(effective_options(known[name]), effective_options(known[group.reference]))
    return published == configuration.departures


def sign_of(published: float, measured: Difference | None) -> str:
    """One of SIGNS: noise and missing intervals come before any agreement."""
    if measured is None or not measured.has_interval:
        return "no_interval"
    if measured.verdict == "noise":
        return "noise"
    if round(published, 6) == 0:
        return "equal"
    return "agrees" if (published > 0) == (measured.verdict == "higher") else "disagrees"


def _sign(group: Group, configuration: Configuration, name: str, metric: str) -> str:
    known = published_difference(name, group.baseline, metric)
    if configuration is group.baseline or known is None:
        return ""
    return sign_of(known[1], group.difference(configuration, metric))


def _table(context: Context, compared: Sequence[tuple[Configuration, str]]) -> Table:
    words, group = context.words, context.main
    columns = [words("preset")]
    for metric in HEADLINE:
        columns += [
            words(key, metric=words(metric))
            for key in ("published_figure", "measured_figure", "published_change", "measured_change", "sign_of")
        ]
    rows = []
    for configuration, name in compared:
        row = [name.removeprefix(group.prefix)]
        for metric in HEADLINE:
            row += _cells(context, configuration, name, metric)
        rows.append(row)
    return Table(columns, rows)


def _cells(context: Context, configuration: Configuration, name: str, metric: str) -> list[str]:
    group = context.main
    figure = published_figures(name).get(metric, math.nan)
    figures = [four(figure), four(configuration.mean(metric))]
    known = published_difference(name, group.baseline, metric)
    if configuration is group.baseline or known is None:
        return [*figures, NOTHING, NOTHING, NOTHING]
    measured = group.difference(configuration, metric)
    sign = context.words(f"sign_{_sign(group, configuration, name, metric)}")
    return [*figures, signed(known[1]), context.differs(measured), sign]
