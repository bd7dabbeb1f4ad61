"""A table for every factor in which configurations depart from the baseline alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moleflow_fast.report import plots
from moleflow_fast.report.configurations import Configuration, Group
from moleflow_fast.report.context import HEADLINE, Context
from moleflow_fast.report.document import Block, Figure, Heading
from moleflow_fast.report.factors import COMPONENTS, FACTORS, plain
from moleflow_fast.report.sections.comparisons import comparison_table, distinct, reading
from moleflow_fast.report.sections.ranking import with_baseline
from moleflow_fast.report.words import Words

_DRAWN = ("dia_blocks", "coupling_layers", "lora_rank")
_TRIMMED = ("score_aggregation_", "use_tail_aware_", "tail_")


def hyperparameters(context: Context) -> list[Block]:
    """One table a factor, with lines for those that are numbers of layers or ranks."""
    words, group = context.words, context.main
    blocks: list[Block] = [Heading(words("hyperparameters"))]
    factors = factors_of(words, group)
    if not factors:
        return blocks + context.missing("missing_hyperparameters", baseline=group.baseline.name)
    for factor in factors:
        rows = _sorted_rows(context, group, factor)
        title = words.or_same("factor", factor)
        blocks += [Heading(title, 3), comparison_table(context, group, title, rows)]
        blocks += reading(context, group, rows)
        if factor in _DRAWN and len(rows) > 2:
            blocks.append(_drawing(context, group, factor))
    return blocks


def factors_of(words: Words, group: Group) -> list[str]:
    """Factors with rows of their own, those with a name first; the switches of the ablation have their own section."""
    single = {factor for c in group.configurations if len(c.departures) == 1 for factor in c.departures}
    named = [factor for factor in words.names("factor") if factor in single]
    return [*named, *sorted(single - {*named, *COMPONENTS})]


def factor_label(context: Context, factor: str, values: Mapping[str, Any]) -> str:
    """What a factor was set to: the bare value of a factor with one option, `mode=top_k, top_k=10` of others."""
    texts = {option: _text(context, value) for option, value in values.items()}
    if len(FACTORS[factor]) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{_trimmed(option)}={text}" for option, text in texts.items())


def _text(context: Context, value: Any) -> str:
    return context.words("on" if value else "off") if isinstance(value, bool) else plain(value)


def _trimmed(option: str) -> str:
    for prefix in _TRIMMED:
        option = option.removeprefix(prefix)
    return option


def _sorted_rows(context: Context, group: Group, factor: str) -> list[tuple[str, Configuration]]:
    """The baseline in its place among numbers, or first; the others option by option, by value."""
    options = FACTORS[factor]
    standing = {o: group.baseline.effective[o] for o in options if o in group.baseline.effective}
    others = [(c.departures[factor], c) for c in group.single(factor)]
    others.sort(key=lambda row: [(options.index(option), *_order(value)) for option, value in row[0].items()])
    rows = [(standing, group.baseline), *others]
    if len(options) == 1 and all(isinstance(v[options[0]], (int, float)) for v, _ in rows):
        rows.sort(key=lambda row: row[0][options[0]])
    labelled = []
    for values, configuration in rows:
        label = factor_label(context, factor, values)
        is_baseline = configuration is group.baseline
        labelled.append((with_baseline(context, label) if is_baseline else label, configuration))
    return distinct(labelled)


def _order(value: Any) -> tuple[float, str]:
    """Numbers by size, then texts by letter."""
    return (value, "") if isinstance(value, (int, float)) else (float("inf"), str(value))


def _drawing(context: Context, group: Group, factor: str) -> Figure:
    words, (option,) = context.words, FACTORS[factor]
    chosen = sorted([group.baseline, *group.single(factor)], key=lambda c: c.effective[option])
    x = [c.effective[option] for c in chosen]
    series = [_series(context, chosen, metric) for metric in HEADLINE]
    title = words.or_same("factor", factor)
    svg = plots.lines(factor, title, x, series, group.baseline.effective[option])
    return Figure(factor, svg, words("lines_caption", factor=title))


def _series(context: Context, chosen: Sequence[Configuration], metric: str) -> plots.Series:
    means, deviations = [c.mean(metric) for c in chosen], [c.deviation(metric) for c in chosen]
    return plots.Series(context.words(metric), means, deviations)
