"""A task in training as it is between two epochs: enough to go on to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did; `loss` is the mean over the batches that counted."""

    task_id: int
    stage: str
    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    images: int
    seconds: float
    skipped_batches: int


@dataclass(frozen=True)
class BatchRecord:
    """Progress inside an epoch."""

    task_id: int
    epoch: int
    epochs: int
    batch: int
    batches: int
    images: int
    loss: float


Listener = Callable[[EpochRecord | BatchRecord], None]


@dataclass(frozen=True)
class TaskState:
    """The epochs done so far, and every tensor that the next one starts from.

    Random numbers are no part of it: the expert's first weights, the order of images and their augmentation follow
    from seed, task and epoch, and nothing else is drawn while a task trains.
    """

    records: list[EpochRecord]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]  # of the stage that the last epoch was in
    statistics: dict[str, Tensor]  # of the first task's features, as far as they were seen


class StateKeeper(Protocol):
    """Where the trainer leaves its state between epochs, and finds it again."""

    def stored(self) -> TaskState | None:
        """What an interrupted training of this task left."""

    def refuse(self, reason: str) -> None:
        """Told of a stored state that does not fit: the task starts over."""

    def epoch_ended(self, state: Callable[[], TaskState]) -> None:
        """May take the state, which is made when asked for, and may end the training by an exception."""
