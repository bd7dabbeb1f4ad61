"""Optimizer steps that the host only starts: on a GPU one CUDA graph a step, replayed without waiting for a result.

Loss, backward pass, clipping, optimizer, skipping of batches that are not finite and the sum of the losses all
happen on the device. On a CPU the same body runs without a graph, which is how it is tested.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from moleflow_fast.engine.graphs import capture
from moleflow_fast.ops.adamp import Group

if TYPE_CHECKING:
    from moleflow_fast.kernels.adamp import DeviceAdamP

_AHEAD = 4  # steps that the host may be ahead of the device


class Optimizer(Protocol):
    """`moleflow_fast.trainer.optimizer.AdamP`."""

    param_groups: list[dict[str, Any]]
    state: Any

    def with_state(self) -> list[Group]: ...


class DeviceSteps:
    """Steps of one training stage, for batches of any number of shapes; each shape is captured once.

    Args:
        loss: patches (B, H, W, D) -> scalar; only launches work, and reads nothing back.
        optimizer: holds the parameters; its moments are updated in place, its step counts by `finish`.
        max_norm: of the gradients, as for `adamp_step`.
        largest_loss: a batch above it is skipped, as one whose loss or gradient is not finite.
    """

    def __init__(
        self, loss: Callable[[Tensor], Tensor], optimizer: Optimizer, max_norm: float, largest_loss: float
    ) -> None:
        self._loss = loss
        self._optimizer = optimizer
        self._max_norm = max_norm
        self._largest_loss = largest_loss
        self._adamp: DeviceAdamP | None = None
        self._steps: dict[torch.Size, _Step] = {}
        self._progress: _Progress | None = None

    def __call__(self, patches: Tensor) -> float:
        """Start a step; returns the mean loss as far as it is known, NaN before any is."""
        step = self._steps.get(patches.shape)
        if step is None:
            step = self._steps[patches.shape] = self._new_step(patches)
        assert self._adamp is not None and self._progress is not None
        step(patches)
        return self._progress.mean()

    def set_rate(self, rate: float) -> None:
        """Learning rate of the steps to come."""
        if self._adamp is not None:
            self._adamp.lr.fill_(rate)

    def finish(self) -> tuple[float, int, int]:
        """Wait for the steps since the last `finish`: sum of their losses, how many counted, how many were skipped."""
        assert self._adamp is not None and self._progress is not None
        steps = self._adamp.steps.tolist()
        for tensor, taken in zip(self._adamp.tensors, steps, strict=True):
            self._optimizer.state[tensor.parameter]["step"] = taken
            increment_version((tensor.parameter, tensor.exp_avg, tensor.exp_avg_sq))
        total, counted, skipped = self._progress.totals.tolist()
        self._progress.reset()
        return total, int(counted), int(skipped)

    def release(self) -> None:
        """Give back graphs and gradients."""
        self._steps.clear()
        for tensor in self._adamp.tensors if self._adamp is not None else ():
            tensor.parameter.grad = None

    def _new_step(self, patches: Tensor) -> _Step:
        if self._adamp is None or self._progress is None:
            from moleflow_fast.kernels.adamp import DeviceAdamP  # it needs Triton, which a CPU does not

            self._find_gradients(patches)
            self._adamp = DeviceAdamP(self._optimizer.with_state(), self._max_norm)
            self._progress = _Progress(patches.device)
        body = _Body(self._loss, self._adamp, self._progress.totals, self._largest_loss)
        return _Step(body, patches)

    def _find_gradients(self, patches: Tensor) -> None:
        """Give each parameter that the loss reaches a gradient to stay; the others must not be decayed."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        reached = torch.autograd.grad(self._loss(patches), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, reached, strict=True):
            parameter.grad = None if gradient is None else torch.zeros_like(parameter)


class _Body:
    """What one step does."""

    def __init__(
        self, loss: Callable[[Tensor], Tensor], adamp: DeviceAdamP, totals: Tensor, largest_loss: float
    ) -> None:
        self.adamp = adamp
        self.held = torch.zeros(1, dtype=torch.bool, device=totals.device)
        self._loss = loss
        self._totals = totals
        self._largest_loss = largest_loss
        self._gradients = [t.gradient for t in adamp.tensors]

    def __call__(self, patches: Tensor) -> None:
        torch._foreach_zero_(self._gradients)
        loss = self._loss(patches)
        loss.backward()
        value = loss.detach()
        usable = value.isfinite() & (value <= self._largest_loss)
        self.adamp.step(~usable | self.held)
        skipped = self.adamp.control[2]
        counts = torch.stack([torch.where(skipped == 0, value, 0.0).double(), 1.0 - skipped, skipped])
        self._totals += torch.where(self.held, 0.0, counts)


class _Step:
    """A body for batches of one shape, as a CUDA graph where one could be captured."""

    def __init__(self, body: _Body, patches: Tensor) -> None:
        self._body = body
        self._batch = patches.clone()
        self._graph: torch.cuda.CUDAGraph | None = None
        if patches.is_cuda:
            self._graph = self._capture()

    def __call__(self, patches: Tensor) -> None:
        if self._graph is None:
            self._body(patches)
            return
        self._batch.copy_(patches)
        self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        self._body.held.fill_(True)  # nothing that a warm-up computes may count
        try:
            return capture(lambda: self._body(self._batch))
        finally:
            self._body.held.fill_(False)


class _Progress:
    """Sums of losses, counted and skipped steps, and a copy for the host that trails a few steps behind."""

    def __init__(self, device: torch.device) -> None:
        self.totals = torch.zeros(3, dtype=torch.float64, device=device)
        self._trail: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self._mean = float("nan")

    def mean(self) -> float:
        """Mean loss of the steps known to be done; waits for one `_AHEAD` back at most, so the device is never idle."""
        if not self.totals.is_cuda:
            return _mean(self.totals)
        copy, done = torch.empty(3, dtype=torch.float64, pin_memory=True), torch.cuda.Event()
        copy.copy_(self.totals, non_blocking=True)
        done.record()
        self._trail.append((copy, done))
        if len(self._trail) > _AHEAD:
            copy, done = self._trail.popleft()
            done.synchronize()
            self._mean = _mean(copy)
        return self._mean

    def reset(self) -> None:
        self.totals.zero_()
        self._trail.clear()
        self._mean = float("nan")


def _mean(totals: Tensor) -> float:
    total, counted, _ = totals.tolist()
    return total / max(counted, 1.0)

