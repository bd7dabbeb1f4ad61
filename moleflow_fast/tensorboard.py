"""A run's curves for TensorBoard, an optional dependency."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.class_result import METRICS, Evaluation
from moleflow_fast.trainer.task_state import EpochRecord


class TensorBoardLog:
    """Writes event files into `<run>/tensorboard`.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._writer = summary_writer_class()(str(path))

    def epoch(self, record: EpochRecord) -> None:
        """Loss, learning rate and images per second against the epoch, a group of curves per task."""
        group = f"task_{record.task_id}"
        self._writer.add_scalar(f"{group}/loss", record.loss, record.epoch)
        self._writer.add_scalar(f"{group}/learning_rate", record.learning_rate, record.epoch)
        self._writer.add_scalar(f"{group}/images_per_second", record.images / max(record.seconds, 1e-9), record.epoch)

    def evaluation(self, after_task: int, evaluation: Evaluation) -> None:
        """Every metric of every class, and its mean, against the number of the last task learned."""
        for metric in METRICS:
            group = f"{evaluation.ids}/{metric}"
            self._scalar(f"{group}/mean", evaluation.mean(metric), after_task)
            for result in evaluation.classes:
                self._scalar(f"{group}/{result.class_name}", getattr(result, metric), after_task)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        if not math.isnan(value):
            self._writer.add_scalar(name, value, step)


def summary_writer_class() -> Any:
    """TensorBoard's writer, or the error that tells how to get it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs the package: pip install 'moleflow_fast[tensorboard]', or leave the option out"
        ) from error
    return SummaryWriter
