"""What earlier tasks lost, and where images were sent."""

from __future__ import annotations

import numpy as np

from moleflow_fast.report import plots
from moleflow_fast.report.configurations import Configuration
from moleflow_fast.report.context import HEADLINE, Context, four, percent, signed
from moleflow_fast.report.document import Block, Details, Figure, Heading, Table, Text
from moleflow_fast.report.statistics import mean


def forgetting(context: Context) -> list[Block]:
    """Per earlier task of the baseline, then the mean of every configuration."""
    words, base = context.words, context.main.baseline
    blocks: list[Block] = [Heading(words("forgetting"))]
    lost = [run.forgetting.get("per_task", ()) for run in base.runs]
    if not all(lost):
        return blocks + context.missing("missing_forgetting")
    tasks = base.runs[0].tasks
    rows = [
        (
            str(number),
            ", ".join(tasks[number]),
            signed(mean([run.forgetting["per_task"][number] for run in base.runs])),
            signed(mean([run.forgetting["bwt_per_task"][number] for run in base.runs])),
        )
        for number in range(len(lost[0]))
    ]
    columns = ("task", "task_classes", "forgetting_measure", "bwt")
    blocks += [Text(words("forgetting_lead", baseline=base.name)), Table([words(c) for c in columns], rows)]
    ranked = sorted(context.ranked, key=lambda c: -_lost(c))
    means = [(c.name, signed(_lost(c)), signed(_lost(c, "bwt_per_task"))) for c in ranked]
    table = Table([words(c) for c in ("configuration", "forgetting_measure", "bwt")], means)
    return [*blocks, Details(words("forgetting_of_all", count=len(means)), [table])]


def _lost(configuration: Configuration, key: str = "per_task") -> float:
    return mean([value for run in configuration.runs for value in run.forgetting.get(key, ())])


def routing(context: Context) -> list[Block]:
    """Images by true and routed task under the baseline, and what wrong routes cost."""
    words, base = context.words, context.main.baseline
    blocks: list[Block] = [Heading(words("routing"))]
    matrices = [np.array(run.confusion) for run in base.runs if run.confusion]
    if not matrices:
        return blocks + context.missing("missing_routing")
    total = np.sum(matrices, axis=0)
    accuracy = float(np.trace(total) / max(total.sum(), 1))
    blocks.append(Text(words("routing_lead", baseline=base.name, accuracy=percent(accuracy), seeds=len(matrices))))
    names = [", ".join(task) if len(task) < 3 else f"{words('task')} {n}" for n, task in enumerate(base.runs[0].tasks)]
    labels = (words("true_task"), words("routed_to"))
    svg = plots.confusion("routing", labels, names, total.tolist())
    blocks.append(Figure("routing", svg, words("routing_caption")))
    rows = [(words(metric), four(base.mean(metric)), four(base.oracle(metric))) for metric in HEADLINE]
    return [*blocks, Table((words("metric"), words("routed"), words("oracle")), rows)]
