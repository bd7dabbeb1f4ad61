"""The baseline beside a method that needs no training."""

from __future__ import annotations

from moleflow_fast.report.context import NOTHING, Context, four
from moleflow_fast.report.document import Block, Details, Heading, Table, Text
from moleflow_fast.report.rivals import FIGURES, RivalRow
from moleflow_fast.report.sections.data_sets import class_mean
from moleflow_fast.report.statistics import mean


def rivals(context: Context) -> list[Block]:
    """Means over the classes that both have, then each class; nothing where no rival was given."""
    if not context.rivals:
        return []
    words, base = context.words, context.main.baseline
    blocks: list[Block] = [Heading(words("rivals"))]
    there = [set(context.main.classes), *({row.class_name for row in rows} for rows in context.rivals.values())]
    common = [name for name in context.main.classes if all(name in names for names in there)]
    if not common:
        return blocks + context.missing("missing_rivals")
    left_out = sorted(set.union(*there) - set(common))
    blocks.append(Text(words("rivals_lead", baseline=base.name, count=len(common))))
    if left_out:
        blocks.append(Text(words("rivals_left_out", names=", ".join(left_out))))
    ours = {metric: [class_mean(base, metric, name) for name in common] for metric in FIGURES}
    theirs = {words("rival", coreset=coreset): _of(rows, common) for coreset, rows in context.rivals.items()}
    means = [(base.name, *(four(mean(ours[metric])) for metric in FIGURES), NOTHING, NOTHING)]
    for name, rows in theirs.items():
        figures = [four(mean([row.figures[metric] for row in rows])) for metric in FIGURES]
        means.append((name, *figures, *_cost(rows)))
    columns = ("configuration", *FIGURES, "seconds_a_task", "megabytes_a_task")
    blocks.append(Table([words(column) for column in columns], means))
    detection = [ours["image_auroc"], *([row.figures["image_auroc"] for row in rows] for rows in theirs.values())]
    by_class = [(name, *map(four, values)) for name, *values in zip(common, *detection, strict=True)]
    table = Table([words("class_name"), base.name, *theirs], by_class)
    return [*blocks, Details(words("rivals_by_class", metric=words("image_auroc")), [table])]


def _of(rows: list[RivalRow], names: list[str]) -> list[RivalRow]:
    by_name = {row.class_name: row for row in rows}
    return [by_name[name] for name in names]


def _cost(rows: list[RivalRow]) -> tuple[str, str]:
    seconds, size = (mean(list(values)) for values in zip(*((r.seconds, r.bytes) for r in rows), strict=True))
    return f"{seconds:.1f}", f"{size / 1e6:.1f}"
