"""Parameters, epochs, schedule and optimizer of one part of a task's training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from moleflow_fast.engine.training import DeviceSteps
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.trainer.optimizer import AdamP


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
        self.device_steps: DeviceSteps | None = None
        self._losses: list[float] = []

    def begin(self, model: MoLESpatialAwareNF) -> None:
        """Only this stage's parameters get gradients."""
        model.requires_grad_(False)
        for parameter in self.params:
            parameter.requires_grad_(True)
        self.optimizer = AdamP(self.params, lr=self.lr, weight_decay=self.weight_decay)

    def end(self) -> None:
        """Give back what the stage's steps hold."""
        if self.device_steps is not None:
            self.device_steps.release()
            self.device_steps = None

    def count(self, loss: float) -> float:
        """Take in the loss of a step, NaN if it was skipped; returns the mean of those that counted."""
        self._losses.append(loss)
        finite = [value for value in self._losses if math.isfinite(value)]
        return sum(finite) / max(len(finite), 1)

    def finish_steps(self) -> tuple[float, int, int]:
        """Of the steps since the last call: the sum of their losses, how many counted, how many were skipped."""
        if self.device_steps is not None:
            return self.device_steps.finish()
        finite = [value for value in self._losses if math.isfinite(value)]
        skipped = len(self._losses) - len(finite)
        self._losses.clear()
        return sum(finite), len(finite), skipped

    def set_rate(self, epoch: int) -> float:
        rate = self.rate(epoch, self.epochs, self.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.device_steps is not None:
            self.device_steps.set_rate(rate)
        return rate
