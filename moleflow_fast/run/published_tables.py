"""The CSV files of the published package beside a run's own tables, for scripts that read those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.evaluation.class_result import Evaluation
from moleflow_fast.utils import result_tables

_STRATEGY = "MoLE-Flow"
_FIGURES = {"img_aucs": "image_auroc", "pixel_aucs": "pixel_auroc", "img_aps": "image_ap", "pixel_aps": "pixel_ap"}


@dataclass(frozen=True)
class PublishedTables:
    """Where they go, and what they say of the run.

    Args:
        folder: of the run.
        tasks: classes of each task.
        epochs: of a task.
    """

    folder: Path
    tasks: Sequence[Sequence[str]]
    epochs: int

    def after_task(self, task_id: int, routed: Evaluation) -> None:
        """Write the tables of an evaluation.

        Raises:
            WriteFailed: one of them cannot be written.
        """
        of = _columns(routed)
        figures = of["img_aucs"], of["pixel_aucs"]
        names, epoch = [result.class_name for result in routed.classes], max(self.epochs - 1, 0)
        every_class = [name for task in self.tasks for name in task]
        routing = of["routing_accuracies"]
        result_tables.evaluation(self.folder, task_id, epoch, names, *figures, routing)
        result_tables.continual(self.folder, task_id, self.tasks[task_id], names, *figures, self.tasks, routing)
        result_tables.unified(self.folder, task_id, epoch, names, *figures, every_class, routing)

    def final(self, routed: Evaluation, config: AblationConfig) -> None:
        """Write the tables of a finished run.

        Raises:
            WriteFailed: one of them cannot be written.
        """
        names, of = [result.class_name for result in routed.classes], _columns(routed)
        tasks = [result.task_id for result in routed.classes]
        result_tables.final(self.folder, {"classes": names, "task_ids": tasks, **of})
        kinds = {name.removesuffix("s"): of[name] for name in _FIGURES}
        pairs = result_tables.summary_of(
            self.folder.name, _STRATEGY, names, kinds, len(self.tasks), config, routed.mean("routing_accuracy"), {}
        )
        result_tables.summary(self.folder / f"final_summary_{self.folder.name}.csv", pairs)


def _columns(evaluation: Evaluation) -> dict[str, list[float]]:
    """By published name; -1 where a class has no masks."""
    columns = {
        name: [_known(getattr(result, metric)) for result in evaluation.classes] for name, metric in _FIGURES.items()
    }
    return {**columns, "routing_accuracies": [result.routing_accuracy for result in evaluation.classes]}


def _known(value: float) -> float:
    return result_tables.UNKNOWN if math.isnan(value) else value
