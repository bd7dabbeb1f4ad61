"""What a person sees of a run: training, tables of results, where the time went."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.markup import escape
from rich.table import Table

from moleflow_fast.console import Console
from moleflow_fast.evaluation.class_result import Evaluation
from moleflow_fast.evaluation.forgetting import Forgetting
from moleflow_fast.trainer.task_state import BatchRecord, EpochRecord, Listener

COLUMNS = (
    ("image AUROC", "image_auroc"),
    ("pixel AUROC", "pixel_auroc"),
    ("pixel AP", "pixel_ap"),
    ("image AP", "image_ap"),
    ("AUPRO", "aupro"),
)
_TRAINING = "epoch {task.fields[epoch]} loss {task.fields[loss]} {task.fields[rate]}"


class RunConsole(Console):
    """Its bars and tables too."""

    @contextmanager
    def training(self, title: str) -> Iterator[Listener]:
        """A bar for the epochs of a task, with loss, images per second and time left."""
        with self.bar(_TRAINING) as bar:
            line = bar.add_task(title, total=None, epoch="", loss="", rate="")
            images = 0

            def listen(record: EpochRecord | BatchRecord) -> None:
                nonlocal images
                if isinstance(record, EpochRecord):
                    return
                images += record.images
                seconds = bar.tasks[line].elapsed or 0.0
                bar.update(
                    line,
                    completed=record.epoch * record.batches + record.batch,
                    total=record.epochs * record.batches,
                    epoch=f"{record.epoch + 1}/{record.epochs}",
                    loss=f"{record.loss:.1f}",
                    rate=f"{images / seconds:.0f} images/s" if seconds else "",
                )

            yield listen

    @contextmanager
    def training_elsewhere(self, titles: Mapping[int, str]) -> Iterator[Callable[[EpochRecord], None]]:
        """A bar for each of these tasks; the callback takes the last epoch of one of them."""
        with self.bar(_TRAINING) as bar:
            lines = {t: bar.add_task(title, total=None, epoch="", loss="", rate="") for t, title in titles.items()}

            def show(record: EpochRecord) -> None:
                bar.update(
                    lines[record.task_id],
                    completed=record.epoch + 1,
                    total=record.epochs,
                    epoch=f"{record.epoch + 1}/{record.epochs}",
                    loss=f"{record.loss:.1f}",
                    rate=f"{record.images / max(record.seconds, 1e-9):.0f} images/s",
                )

            yield show

    def evaluation(self, title: str, routed: Evaluation, oracle: Evaluation) -> None:
        """Metrics per class under routed ids, and their means under routed and true ids."""
        table = Table(title=title, title_justify="left")
        table.add_column("class")
        table.add_column("task", justify="right")
        for name, _ in COLUMNS:
            table.add_column(name, justify="right")
        table.add_column("routing", justify="right")
        for result in routed.classes:
            values = [_number(getattr(result, metric)) for _, metric in COLUMNS]
            table.add_row(escape(result.class_name), str(result.task_id), *values, _percent(result.routing_accuracy))
        table.add_section()
        for evaluation in (routed, oracle):
            values = [_number(evaluation.mean(metric)) for _, metric in COLUMNS]
            routing = _percent(evaluation.mean("routing_accuracy")) if evaluation is routed else "true ids"
            table.add_row(f"mean ({evaluation.ids})", "", *values, routing)
        self.console.print(table)

    def forgetting(self, tasks: Sequence[Sequence[str]], under: dict[str, Forgetting]) -> None:
        """Forgetting measure and backward transfer of image AUROC per earlier task."""
        table = Table(title="forgetting (image AUROC)", title_justify="left")
        table.add_column("task")
        for ids in under:
            table.add_column(f"FM {ids}", justify="right")
            table.add_column(f"BWT {ids}", justify="right")
        for j, classes in enumerate(tasks[:-1]):
            values = [_number(v) for f in under.values() for v in (f.measure[j], f.transfer[j])]
            table.add_row(escape(f"{j}: {', '.join(classes)}"), *values)
        table.add_section()
        table.add_row("mean", *[_number(v) for f in under.values() for v in (f.mean_measure, f.bwt)])
        self.console.print(table)

    def phases(self, seconds: Mapping[str, float]) -> None:
        """Where the time went, the longest phase first."""
        ordered = sorted(seconds.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {value:.1f}" for name, value in ordered if value >= 0.05)
        self.say(f"time           {sum(seconds.values()):.1f} s: {shown}")

    def routing(
        self, tasks: Sequence[Sequence[str]], before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]
    ) -> None:
        """Two confusion matrices, row true task, column routed task: before and after the products changed."""
        table = Table(title="routing", title_justify="left")
        table.add_column("images of")
        for title in ("images", "right before", "right now", "wrongly to, now"):
            table.add_column(title, justify="right")
        for t, classes in enumerate(tasks):
            row = after[t] if t < len(after) else []
            wrong = ", ".join(f"{escape(', '.join(tasks[to]))} {n}" for to, n in enumerate(row) if n and to != t)
            shares = [_percent(_share(matrix, t)) for matrix in (before, after)]
            table.add_row(escape(", ".join(classes)), str(sum(row) or "-"), *shares, wrong or "-")
        self.console.print(table)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _share(confusion: Sequence[Sequence[int]], task_id: int) -> float:
    """Of a task's images, how many are routed right; NaN where there are none."""
    row = confusion[task_id] if task_id < len(confusion) else []
    return row[task_id] / sum(row) if sum(row) else math.nan


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
