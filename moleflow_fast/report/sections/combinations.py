"""Configurations that depart from the baseline in several factors: do the gains add up?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from moleflow_fast.report.configurations import Configuration, Group
from moleflow_fast.report.context import HEADLINE, NOTHING, Context, mean_cell, ranking_of, signed
from moleflow_fast.report.document import Block, Details, Heading, Table, Text
from moleflow_fast.report.factors import values_text
from moleflow_fast.report.statistics import Difference, Values, paired_difference

_SHOWN = 20


def combinations(context: Context) -> list[Block]:
    """Measured differences beside the sums of the single ones; combinations without such a sum to unfold."""
    words, group = context.words, context.main
    blocks: list[Block] = [Heading(words("combinations"))]
    chosen = [c for c in ranking_of(group) if c in set(group.combined())]
    if not chosen:
        return blocks + context.missing("missing_combinations")
    complete = {id(c): parts for c in chosen if (parts := single_parts(group, c)) is not None}
    summed = [c for c in chosen if id(c) in complete]
    shown = (summed or chosen)[:_SHOWN]
    blocks += [Text(_reading(context, summed, complete)), _table(context, shown, complete)]
    rest = [c for c in chosen if c not in shown]
    if rest:
        blocks.append(Details(words("rest_of_combinations", count=len(rest)), [_table(context, rest, complete)]))
    return blocks


def single_parts(group: Group, configuration: Configuration) -> list[Configuration] | None:
    """The configurations that have each of its departures alone; None unless every one of them is there."""
    parts = []
    for factor, values in configuration.departures.items():
        alone = next((c for c in group.single(factor) if c.departures[factor] == values), None)
        if alone is None:
            return None
        parts.append(alone)
    return parts


def sum_of_parts(group: Group, parts: Sequence[Configuration], metric: str) -> float | None:
    """Sum of the single differences to the baseline."""
    differences = [group.difference(part, metric) for part in parts]
    if any(d is None for d in differences):
        return None
    return sum(d.value for d in differences if d is not None)


def surplus(
    group: Group, configuration: Configuration, parts: Sequence[Configuration], metric: str
) -> Difference | None:
    """The combination minus baseline and single differences, paired over what all of them have."""
    tables = [part.per_class(metric) for part in parts]
    expected = _expected(group.baseline.per_class(metric), tables)
    return paired_difference(configuration.per_class(metric), expected)


def _expected(base: Values, parts: Sequence[Values]) -> Values:
    seeds = set(base).intersection(*parts)
    expected = {}
    for seed in seeds:
        names = set(base[seed]).intersection(*(part[seed] for part in parts))
        expected[seed] = {n: base[seed][n] + sum(part[seed][n] - base[seed][n] for part in parts) for n in names}
    return expected


def _table(context: Context, chosen: Sequence[Configuration], complete: Mapping[int, list[Configuration]]) -> Table:
    words, group = context.words, context.main
    columns = [words("configuration"), words("departs_in"), words("n"), *(words(metric) for metric in HEADLINE)]
    for metric in HEADLINE:
        columns += [words("difference_in", metric=words(metric)), words("sum_of_singles", metric=words(metric))]
    rows = []
    for configuration in chosen:
        values = {o: v for departed in configuration.departures.values() for o, v in departed.items()}
        row = [configuration.name, values_text(values), str(len(configuration.runs))]
        row += [mean_cell(configuration, metric) for metric in HEADLINE]
        for metric in HEADLINE:
            parts = complete.get(id(configuration))
            total = None if parts is None else sum_of_parts(group, parts, metric)
            row += [
                context.differs(group.difference(configuration, metric)),
                NOTHING if total is None else signed(total),
            ]
        rows.append(row)
    return Table(columns, rows)


def _reading(context: Context, chosen: Sequence[Configuration], complete: Mapping[int, list[Configuration]]) -> str:
    words, group = context.words, context.main
    if not chosen:
        return words("sums_missing")
    lines = [words("sums_exist", count=len(chosen))]
    for metric in HEADLINE:
        verdicts: Counter[str] = Counter()
        for configuration in chosen:
            found = surplus(group, configuration, complete[id(configuration)], metric)
            verdicts["no_interval" if found is None else found.verdict] += 1
        below = sum(_lies_below(group, c, complete[id(c)], metric) for c in chosen)
        lines.append(words("sums_means", metric=words(metric), below=below, count=len(chosen)))
        lines.append(words("sums", metric=words(metric), **{v: verdicts[v] for v in _VERDICTS}))
    return " ".join(lines)


def _lies_below(group: Group, configuration: Configuration, parts: Sequence[Configuration], metric: str) -> bool:
    measured, total = group.difference(configuration, metric), sum_of_parts(group, parts, metric)
    return measured is not None and total is not None and round(measured.value - total, 6) < 0


_VERDICTS = ("higher", "lower", "noise", "no_interval")
