"""Optimizer steps that the host only starts: on a GPU one CUDA graph a step, replayed without waiting for a result.

Loss, backward pass, clipping, optimizer, skipping of batches that are not finite and the sum of the losses all
happen on the device. On a CPU the same body runs without a graph, which is how it is tested.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from moleflow_fast.engine.graphs import capture
from moleflow_fast.kernels.adamp_groups import Group

if TYPE_CHECKING:
    from moleflow_fast.kernels.adamp import DeviceAdamP

_AHEAD = 4  # steps that the host may be ahead of the device


class Optimizer(Protocol):
    """`moleflow_fast.trainer.optimizer.AdamP`."""

    param_groups: list[dict[str, Any]]
    state: Any

    def with_state(self) -> list[Group]: ...

    def set_rate(self, rate: float) -> None: ...


class DeviceSteps:
    """Steps of one training stage, for batches of any number of shapes; each shape is captured once.

    Args:
        loss: patches (B, H, W, D) -> scalar, a mean over images; only launches work, and reads nothing back.
        optimizer: holds the parameters; its moments are updated in place, its step counts by `finish`.
        max_norm: of the gradients, as for `adamp_step`.
        largest_loss: a batch above it is skipped, as one whose loss or gradient is not finite.
        parts: how many parts a batch goes through in, forward and backward: a step holds what one part keeps.
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        optimizer: Optimizer,
        max_norm: float,
        largest_loss: float,
        parts: int = 1,
    ) -> None:
        self._loss = loss
        self._optimizer = optimizer
        self._max_norm = max_norm
        self._largest_loss = largest_loss
        self._parts = parts
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
        self._optimizer.set_rate(rate)
        if self._adamp is not None:
            self._adamp.lr.fill_(rate)

    def finish(self) -> tuple[float, int, int]:
        """Wait for the steps since the last `finish`: sum of their losses, how many counted, how many were skipped."""
        if self._adamp is None or self._progress is None:
            return 0.0, 0, 0
        steps = self._adamp.steps.tolist()
        for tensor, taken in zip(self._adamp.tensors, steps, strict=True):
            self._optimizer.state[tensor.parameter]["step"] = taken
            increment_version((tensor.parameter, tensor.exp_avg, tensor.exp_avg_sq))
        total, counted, skipped = self._progress.totals.tolist()
        self._progress.reset()
        return total, int(counted), int(skipped)

    def release(self) -> None:
        """Give back graphs and gradients; what `finish` would tell is lost."""
        self._steps.clear()
        for tensor in self._adamp.tensors if self._adamp is not None else ():
            tensor.parameter.grad = None
        self._adamp = self._progress = None

    def _new_step(self, patches: Tensor) -> _Step:
        if self._adamp is None or self._progress is None:
            from moleflow_fast.kernels.adamp import DeviceAdamP  # it needs Triton, which a CPU does not

            self._find_gradients(patches.chunk(self._parts)[0])
            self._adamp = DeviceAdamP(self._optimizer.with_state(), self._max_norm)
            self._progress = _Progress(patches.device)
        parameters = [t.parameter for t in self._adamp.tensors]
        gradients = _Gradients(self._loss, parameters, self._parts)
        return _Step(_Body(gradients, self._adamp, self._progress.totals, self._largest_loss), patches)

    def _find_gradients(self, patches: Tensor) -> None:
        """Leave a gradient with each parameter that the loss reaches; the others must not be decayed."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        reached = torch.autograd.grad(self._loss(patches), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, reached, strict=True):
            parameter.grad = None if gradient is None else gradient.contiguous()


class _Gradients:
    """Loss of a batch, and the gradients of some parameters: fresh tensors, which nothing is copied to."""

    def __init__(self, loss: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], parts: int) -> None:
        self._loss = loss
        self._parameters = parameters
        self._parts = parts

    def __call__(self, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Parts weigh as many images as they have: the loss is a mean over images."""
        whole, *others = patches.chunk(self._parts)
        value, gradients = self._of(whole, len(whole) / len(patches))
        for part in others:
            more, added = self._of(part, len(part) / len(patches))
            value = value + more
            torch._foreach_add_(gradients, added)
        return value, gradients

    def _of(self, patches: Tensor, share: float) -> tuple[Tensor, list[Tensor]]:
        loss = self._loss(patches) if share == 1.0 else self._loss(patches) * share
        gradients = torch.autograd.grad(loss, self._parameters)
        return loss.detach(), [g.contiguous() for g in gradients]


class _Body:
    """What one step does."""

    def __init__(self, gradients: _Gradients, adamp: DeviceAdamP, totals: Tensor, largest_loss: float) -> None:
        self._gradients = gradients
        self._adamp = adamp
        self._totals = totals
        self._largest_loss = largest_loss
        self.held, self._skip = torch.zeros(2, 1, dtype=torch.uint8, device=totals.device)
        self._table = adamp.table.clone()
        self._pointed: list[Tensor] = []

    def __call__(self, patches: Tensor) -> None:
        from moleflow_fast.kernels.progress import count, judge  # as above

        loss, gradients = self._gradients(patches)
        self._pointed = gradients
        if not (patches.is_cuda and torch.cuda.is_current_stream_capturing()):
            self.point()
        judge(loss, self.held, self._largest_loss, self._skip)
        self._adamp.step(self._skip, self._table)
        count(loss, self.held, self._adamp.control[2], self._totals)

    def point(self) -> None:
        """Let the optimizer's table lead to the gradients of the last call; a graph reads it when it is replayed."""
        self._adamp.point(self._table, self._pointed)


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
        self._body.held.fill_(1)  # nothing that a warm-up computes may count
        try:
            graph = capture(lambda: self._body(self._batch))
            self._body.point()
        finally:
            self._body.held.fill_(0)
        return graph


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
