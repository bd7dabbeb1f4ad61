"""Configurations of the main group by image AUROC."""

from __future__ import annotations

from collections.abc import Sequence

from moleflow_fast.report.configurations import Configuration, Group
from moleflow_fast.report.context import Context, any_interval, mean_cell, percent
from moleflow_fast.report.document import Block, Details, Heading, Strong, Table, Text

_SHOWN = 30
_NAMED = 8


def ranking(context: Context) -> list[Block]:
    """The first thirty and the baseline, the rest to unfold; the first is called best only outside the noise."""
    words, group, ranked = context.words, context.main, context.ranked
    blocks: list[Block] = [Heading(words("ranking"))]
    if len(ranked) < 2:
        return [*blocks, ranking_table(context, group, list(enumerate(ranked, 1))), *context.missing("missing_ranking")]
    placed = list(enumerate(ranked, 1))
    late = placed[_SHOWN:]
    shown = [*placed[:_SHOWN], *(pair for pair in late if pair[1] is group.baseline)]
    blocks += [Text(_reading(context)), ranking_table(context, group, shown)]
    if late:
        blocks.append(Details(words("rest_of_ranking", count=len(late)), [ranking_table(context, group, late)]))
    return blocks


def ranking_table(context: Context, group: Group, placed: Sequence[tuple[int, Configuration]]) -> Table:
    """Rows of the ranking, each configuration with its rank."""
    words = context.words
    columns = ("rank", "configuration", "n", "image_auroc", "pixel_ap", "pixel_auroc", "routing_accuracy")
    rows = [
        (
            str(place),
            _named(context, group, configuration),
            str(len(configuration.runs)),
            *(mean_cell(configuration, metric) for metric in ("image_auroc", "pixel_ap", "pixel_auroc")),
            percent(configuration.mean("routing_accuracy")),
        )
        for place, configuration in placed
    ]
    return Table([words(column) for column in columns], rows)


def _named(context: Context, group: Group, configuration: Configuration) -> str:
    if configuration is group.baseline:
        return Strong(with_baseline(context, configuration.name))
    return configuration.name


def with_baseline(context: Context, text: str) -> str:
    """A row's label with the mark of the baseline."""
    mark = context.words("baseline")
    return text if text == mark else f"{text} ({mark})"


def _reading(context: Context) -> str:
    words, group, (first, *others) = context.words, context.main, context.ranked
    differences = [group.difference(first, "image_auroc", other) for other in others]
    if not any_interval(differences):
        return words("ranking_no_interval", name=first.name)
    near = [o.name for o, d in zip(others, differences, strict=True) if d is None or d.verdict != "higher"]
    if not near:
        return words("ranking_best", name=first.name)
    names = ", ".join(near[:_NAMED]) + (", \u2026" if len(near) > _NAMED else "")
    return words("ranking_noise", name=first.name, count=len(near), names=names)
