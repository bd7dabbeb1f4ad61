"""Optimizer steps of a training stage: taken by the host one operation after another, or started on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from moleflow_fast.engine.plan import images_at_once
from moleflow_fast.trainer.optimizer import AdamP

Loss = Callable[[Tensor], Tensor]  # patches (B, H, W, D) -> (), a mean over images


class Steps(Protocol):
    """`HostSteps`, or `engine.training.DeviceSteps`."""

    def __call__(self, patches: Tensor) -> float:
        """Take or start a step on patches (B, H, W, D); returns the mean loss as far as it is known."""

    def set_rate(self, rate: float) -> None:
        """Learning rate of the steps to come."""

    def finish(self) -> tuple[float, int, int]:
        """Of the steps since the last call: the sum of their losses, how many counted, how many were skipped."""

    def release(self) -> None:
        """Give back gradients, and graphs if there are any."""


class HostSteps:
    """Steps that are done when the call returns.

    On a CPU a batch goes through in parts that fit its caches, forward and backward, and gradients add up: a step then
    holds the intermediates of one part instead of those of the batch.

    Args:
        max_norm: of the gradients, as for `adamp_step`.
        largest_loss: a batch above it is skipped, as one whose loss or gradient is not finite.
        weights_fixed: a block in which no parameter changes.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: AdamP,
        max_norm: float,
        largest_loss: float,
        weights_fixed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._loss = loss
        self._optimizer = optimizer
        self._max_norm = max_norm
        self._largest_loss = largest_loss
        self._weights_fixed = weights_fixed
        self._losses: list[float] = []  # NaN where a batch was skipped

    def __call__(self, patches: Tensor) -> float:
        self._losses.append(self._step(patches))
        finite = self._finite()
        return sum(finite) / max(len(finite), 1)

    def set_rate(self, rate: float) -> None:
        self._optimizer.set_rate(rate)

    def finish(self) -> tuple[float, int, int]:
        finite = self._finite()
        skipped = len(self._losses) - len(finite)
        self._losses.clear()
        return sum(finite), len(finite), skipped

    def release(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def _finite(self) -> list[float]:
        return [value for value in self._losses if math.isfinite(value)]

    def _step(self, patches: Tensor) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        with self._weights_fixed():
            value = self._backward(patches)
        if not math.isfinite(value) or value > self._largest_loss:
            return math.nan
        norm = self._optimizer.step(max_norm=self._max_norm)
        return value if math.isfinite(norm) else math.nan

    def _backward(self, patches: Tensor) -> float:
        """Gradients of the loss, added up over parts of the batch; stops where it is not finite."""
        on_cpu, images = patches.device.type == "cpu", len(patches)
        value = 0.0
        for part in patches.split(images_at_once(patches[0].numel(), training=True) if on_cpu else images):
            loss = self._loss(part) * (len(part) / images)
            value += float(loss.detach())
            if not math.isfinite(value):
                return value
            loss.backward()
        return value
