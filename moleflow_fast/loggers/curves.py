"""A run's curves, by the same names in every program that shows them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.class_result import METRICS, Evaluation
from moleflow_fast.loggers.logger import Logger
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.trainer.task_state import EpochRecord

logger = logging.getLogger(__name__)

# Name for `--logger`, which is the extra's too -> class, in the module of that name.
_LOGGERS = MappingProxyType({"tensorboard": "TensorBoardLogger", "wandb": "WandbLogger", "mlflow": "MlflowLogger"})


def require(names: Sequence[str]) -> None:
    """
    Raises:
        UserError: the package of one of the loggers is not installed.
    """
    for name in names:
        try:
            _module(name).load()
        except ImportError as error:
            raise UserError(
                f"--logger {name} needs the package: pip install 'moleflow_fast[{name}]', or leave it out ({error})"
            ) from error


class Curves:
    """The loggers of one run. One that fails is left out from then on, which is said: training goes on.

    Raises:
        UserError: a package is not installed, or does not start.
    """

    def __init__(self, names: Sequence[str], directory: RunDirectory, options: RunOptions) -> None:
        require(names)
        self._loggers: dict[str, Logger] = {}
        for name in names:
            try:
                self._loggers[name] = getattr(_module(name), _LOGGERS[name])(directory, options)
            except Exception as error:  # each has its own types, for its network, its store and its login
                what = f"--logger {name} does not start ({_line(error)})"
                raise UserError(f"{what}: mend that, or leave it out") from error

    def epoch(self, record: EpochRecord) -> None:
        """Loss, learning rate and images per second against the epoch, a group of curves per task."""
        rate = record.images / max(record.seconds, 1e-9)
        values = {"loss": record.loss, "learning_rate": record.learning_rate, "images_per_second": rate}
        self._log({f"task_{record.task_id}/{name}": v for name, v in values.items()}, "epoch", record.epoch)

    def evaluation(self, after_task: int, evaluation: Evaluation) -> None:
        """Every metric of every class, and its mean, against the number of the last task learned."""
        values = {f"{metric}/mean": evaluation.mean(metric) for metric in METRICS}
        for result in evaluation.classes:
            values |= {f"{metric}/{result.class_name}": getattr(result, metric) for metric in METRICS}
        self._log({f"{evaluation.ids}/{name}": value for name, value in values.items()}, "after_task", after_task)

    def close(self) -> None:
        for name in list(self._loggers):
            self._attempt(name, self._loggers[name].close)
        self._loggers.clear()

    def _log(self, values: Mapping[str, float], axis: str, step: int) -> None:
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        for name in list(self._loggers) if known else ():
            self._attempt(name, self._loggers[name].log, known, axis, step)

    def _attempt(self, name: str, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception as error:
            del self._loggers[name]
            logger.warning("--logger %s fails (%s): the run goes on without it", name, _line(error))


def _module(name: str) -> Any:
    return import_module(f"moleflow_fast.loggers.{name}")


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
