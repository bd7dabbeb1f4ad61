"""Gaussian fronts: w = scale (y + U^T (gain - 1) U y), y = whitener (x - mean), of one task and of several at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moleflow_fast.backend import runs_on_triton
from moleflow_fast.ops.native import forward_only


class FrontTensors(NamedTuple):
    """What a front was estimated as."""

    mean: Tensor  # (H, W, D)
    whitener: Tensor  # (D, D), lower triangular
    directions: Tensor  # (H, W, K, D)
    gain: Tensor  # (H, W, K)
    scale: Tensor  # (H, W)


def gaussian_front(x: Tensor, front: FrontTensors) -> Tensor:
    """w (B, H, W, D) of x (B, H, W, D), differentiable in x; Triton kernels run it where no gradient is wanted.

    On a GPU an image's result does not depend on its batch. On a CPU the library that does the products decides, and
    last bits may differ.
    """
    if not _takes_triton(x, [front]):
        return gaussian_front_reference(x, front)
    return FrontsByTask([front])(x, torch.zeros(len(x), dtype=torch.int32, device=x.device), None)


def gaussian_front_reference(x: Tensor, front: FrontTensors) -> Tensor:
    """The definition in plain PyTorch."""
    y = (x - front.mean) @ front.whitener.T
    return front.scale[..., None] * along_directions(y, front.directions, front.gain - 1)


def gaussian_front_by_task_reference(
    x: Tensor, fronts: Sequence[FrontTensors], tasks: Tensor, positions: Tensor | None
) -> Tensor:
    """`FrontsByTask` by its definition, one image after another."""
    x = x if positions is None else x + positions
    images = [gaussian_front_reference(image[None], fronts[t]) for image, t in zip(x, tasks.tolist(), strict=True)]
    return torch.cat([x[:0], *images])


def along_directions(y: Tensor, directions: Tensor, factor: Tensor) -> Tensor:
    """y + U^T factor U y at each position of y (B, H, W, D); U is directions (H, W, K, D), factor (H, W, K).

    Of 16 images with 256 channels, 784 positions and 32 directions 11 ms on one core of an EPYC, where whitening
    takes 19 to 29.
    """
    k, d = directions.shape[2:]
    if k == 0:
        return y
    u = directions.reshape(-1, k, d)  # (HW, K, D)
    rows = y.reshape(len(y), -1, d).transpose(0, 1)  # (HW, B, D)
    along = torch.bmm(rows, u.transpose(1, 2)) * factor.reshape(-1, 1, k)  # (HW, B, K)
    return torch.baddbmm(rows, along, u).transpose(0, 1).reshape(y.shape)


class FrontsByTask:
    """Fronts of T tasks, of one grid and one number of directions, for batches that mix them; without gradients.

    Kept beside the fronts is one bias by task and position, positions minus mean (T, H, W, D). Directions, which are
    32 times that, are read where the fronts have them.
    """

    def __init__(self, fronts: Sequence[FrontTensors]) -> None:
        self.fronts = [FrontTensors(*(t.contiguous() for t in front)) for front in fronts]
        # Once made, neither is dropped or replaced: a CUDA graph may hold its address.
        self._addresses: Any = None
        self._biases: dict[int, tuple[Tensor | None, Tensor]] = {}  # by the id of the positions beside it
        self._one_at_a_time = threading.Lock()

    def __call__(self, x: Tensor, tasks: Tensor, positions: Tensor | None) -> Tensor:
        """w (B, H, W, D), image b of x (B, H, W, D) plus positions (H, W, D) through front tasks[b], (B,) int32.

        The host does not learn which tasks those are. `positions` are what they were when this very tensor first came.
        """
        if not _takes_triton(x, self.fronts):
            return gaussian_front_by_task_reference(x, self.fronts, tasks, positions)
        from moleflow_fast.kernels import gaussian_front as kernels  # an installation for the CPU may lack Triton

        with self._one_at_a_time:
            if self._addresses is None:
                _, whiteners, directions, gains, scales = zip(*self.fronts, strict=True)
                self._addresses = kernels.addresses(whiteners, directions, gains, scales)
            bias = self._bias(positions)
        # Images of one task lie beside each other then; with one task they do.
        order = torch.argsort(tasks) if len(self.fronts) > 1 else torch.arange(len(tasks), device=tasks.device)
        return kernels.gaussian_front(x.contiguous(), bias, self._addresses, tasks, order)

    def _bias(self, positions: Tensor | None) -> Tensor:
        known = self._biases.get(id(positions))
        if known is None:
            means = torch.stack([front.mean for front in self.fronts])
            bias = means.neg_() if positions is None else torch.sub(positions, means, out=means)
            known = self._biases[id(positions)] = positions, bias
        return known[1]


def _takes_triton(x: Tensor, fronts: Sequence[FrontTensors]) -> bool:
    return x.numel() > 0 and runs_on_triton(x, fronts[0].whitener, why_not=forward_only(x))
