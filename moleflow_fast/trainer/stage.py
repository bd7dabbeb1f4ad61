"""Parameters, epochs, schedule and optimizer of one part of a task's training."""

from __future__ import annotations

from collections.abc import Callable

import torch

from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.trainer.optimizer import AdamP
from moleflow_fast.trainer.steps import Steps


class Stage:
    """Parameters, epochs and schedule of one part of a task's training."""

    def __init__(
        self,
        name: str,
        params: list[torch.nn.Parameter],
        epochs: int,
        first_epoch: int,
        lr: float,
        rate: Callable[[int, int, float], float],
        weight_decay: float,
    ) -> None:
        self.name = name
        self.params = params
        self.epochs = epochs
        self.first_epoch = first_epoch
        self.lr = lr
        self.rate = rate
        self.weight_decay = weight_decay
        self.optimizer: AdamP
        self._steps: Steps | None = None

    @property
    def steps(self) -> Steps:
        """Those of a stage that has begun."""
        assert self._steps is not None
        return self._steps

    def begin(self, model: MoLESpatialAwareNF, new_steps: Callable[[AdamP], Steps]) -> None:
        """Only this stage's parameters get gradients."""
        model.requires_grad_(False)
        for parameter in self.params:
            parameter.requires_grad_(True)
        self.optimizer = AdamP(self.params, lr=self.lr, weight_decay=self.weight_decay)
        self._steps = new_steps(self.optimizer)

    def end(self) -> None:
        """Give back what the stage's steps hold; one without an epoch to train has not begun."""
        if self._steps is not None:
            self._steps.release()
            self._steps = None

    def set_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, which the steps to come take."""
        rate = self.rate(epoch, self.epochs, self.lr)
        self.steps.set_rate(rate)
        return rate
