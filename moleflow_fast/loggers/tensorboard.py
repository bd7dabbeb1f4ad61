"""TensorBoard: event files in `<run>/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.directory import RunDirectory


def load() -> Any:
    """TensorBoard's writer.

    Raises:
        ImportError: it is not installed.
    """
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


class TensorBoardLogger:
    """A `Logger`."""

    def __init__(self, directory: RunDirectory, options: RunOptions) -> None:
        self._writer = load()(str(directory.path / "tensorboard"))

    def log(self, values: Mapping[str, float], axis: str, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
