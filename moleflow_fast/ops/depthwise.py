"""Depthwise convolution of channels-last images (B, H, W, C): zero padding, stride 1, odd kernel.

The context of the scale networks and the spatial mixer are both this operation with their strengths folded in.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import operator_on_triton, runs_compiled, runs_on_triton
from moleflow_fast.ops.native import threads


def depthwise(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """y (B, H, W, C), differentiable in all three.

    Args:
        x: (B, H, W, C).
        taps: weights (k * k, C), rows of the kernel one after another, k odd.
        bias: (C,).

    Raises:
        ValueError: shapes that do not fit, or an even kernel.
    """
    _check(x, taps, bias)
    if x.numel() == 0 or not (runs_compiled(x, taps, bias) or runs_on_triton(x, taps, bias)):
        return depthwise_reference(x, taps, bias)
    return torch.ops.moleflow.depthwise(x, taps, bias)


def depthwise_reference(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """The definition in plain PyTorch."""
    kernel, channels = round(taps.shape[0] ** 0.5), x.shape[-1]
    weight = taps.t().reshape(channels, 1, kernel, kernel)
    planes = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=kernel // 2, groups=channels)
    return planes.permute(0, 2, 3, 1)


def box_mean(x: Tensor, kernel: int) -> Tensor:
    """Mean over the kernel x kernel patches (odd) around each patch of x (B, H, W, C), zeros outside the image."""
    taps, bias = x.new_full((kernel**2, x.shape[-1]), 1 / kernel**2), x.new_zeros(x.shape[-1])
    if x.numel() and (runs_compiled(x) or runs_on_triton(x)):
        return torch.ops.moleflow.depthwise(x, taps, bias)
    return box_mean_reference(x, kernel)


def box_mean_reference(x: Tensor, kernel: int) -> Tensor:
    """The definition, which no flag rounds to tf32 as it may a convolution."""
    # Contiguous: for channels-last planes with padding torch 2.11's gradient is wrong on CUDA, off by half of the
    # largest value (pytorch/pytorch#188344). Convolutions of channels-last planes are cuDNN's, and right.
    planes = x.permute(0, 3, 1, 2).contiguous()
    return F.avg_pool2d(planes, kernel, stride=1, padding=kernel // 2).permute(0, 2, 3, 1)


def depthwise_tokens(
    x: Tensor, taps: Tensor, bias: Tensor | None, out: Tensor, grid: tuple[int, int, int], accumulate: bool = False
) -> None:
    """The compiled convolution of x (n, C), rows any distance apart, on `grid` (images, H, W), n = images * H * W.

    Args:
        taps: (k * k, C).
        bias: (C,).
        out: (n, C), which gets the result, added to what it holds with `accumulate`.
    """
    compiled.depthwise_forward(x, taps, bias, out, grid, accumulate, threads())


def tap_gradients(x: Tensor, dy: Tensor, dtaps: Tensor, dbias: Tensor, grid: tuple[int, int, int]) -> None:
    """Add the gradients of taps (k * k, C) and bias (C,) of `depthwise_tokens` to `dtaps` and `dbias`."""
    compiled.depthwise_backward_taps(x, dy, dtaps, dbias, grid, threads())


def gated_residual(taps: Tensor, bias: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Taps and bias whose convolution is (1 - gate) x + gate DW(x): the identity goes into the middle tap."""
    middle = torch.zeros_like(taps)
    middle[taps.shape[0] // 2] = 1.0
    return gate * taps + (1 - gate) * middle, gate * bias


def _triton() -> ModuleType:
    """Imported when first needed: an installation for the CPU may lack Triton."""
    from moleflow_fast.kernels import depthwise

    return depthwise


@torch.library.custom_op("moleflow::depthwise", mutates_args=())
def _forward(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    if operator_on_triton(x):
        return _triton().depthwise(x.contiguous(), taps.contiguous(), bias.contiguous())
    y = x.new_empty(x.shape)
    depthwise_tokens(_rows(x), taps.contiguous(), bias.contiguous(), _rows(y), _grid(x))
    return y


@_forward.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("moleflow::depthwise_backward", mutates_args=())
def _backward_op(dy: Tensor, x: Tensor, taps: Tensor, with_dx: bool, with_dtaps: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, taps and bias; those that are not wanted are empty, as x may be where those of taps are not."""
    dx, dtaps, dbias = (x.new_empty(0) for _ in range(3))
    if operator_on_triton(x):
        x, dy, taps = x.contiguous(), dy.contiguous(), taps.contiguous()
        if with_dx:
            dx = _triton().depthwise(dy, taps, None)
        if with_dtaps:
            dtaps, dbias = taps.new_empty(taps.shape), taps.new_empty(taps.shape[1])
            _triton().tap_gradients(x, dy, taps, (dtaps, dbias))
        return dx, dtaps, dbias
    if with_dx:
        dx = dy.new_empty(dy.shape)
        # The transposed convolution of an odd kernel is the convolution with the taps in reverse order.
        depthwise_tokens(_rows(dy), taps.flip(0).contiguous(), None, _rows(dx), _grid(dy))
    if with_dtaps:
        dtaps, dbias = x.new_zeros(taps.shape), x.new_zeros(x.shape[-1])
        tap_gradients(_rows(x), _rows(dy), dtaps, dbias, _grid(x))
    return dx, dtaps, dbias


@_backward_op.register_fake
def _(dy: Tensor, x: Tensor, taps: Tensor, with_dx: bool, with_dtaps: bool) -> tuple[Tensor, Tensor, Tensor]:
    dx, dtaps = dy.new_empty(dy.shape if with_dx else (0,)), x.new_empty(taps.shape if with_dtaps else (0,))
    return dx, dtaps, x.new_empty(x.shape[-1] if with_dtaps else 0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, taps, bias = inputs
    with_taps = taps.requires_grad or bias.requires_grad
    # Frozen taps, as those of every later task, need no input: 37 MiB of a step.
    ctx.save_for_backward(x if with_taps else x.new_empty(0), taps)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, taps = ctx.saved_tensors
    with_dx, *with_parameters = ctx.needs_input_grad
    with_dtaps = any(with_parameters)
    dx, dtaps, dbias = _backward_op(dy, x, taps, with_dx, with_dtaps)
    return (dx if with_dx else None, *((dtaps, dbias) if with_dtaps else (None, None)))


_forward.register_autograd(_backward, setup_context=_setup_context)


def _rows(x: Tensor) -> Tensor:
    return x.contiguous().view(-1, x.shape[-1])


def _grid(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2]


def _check(x: Tensor, taps: Tensor, bias: Tensor) -> None:
    if x.dim() != 4 or taps.dim() != 2 or taps.shape[1] != x.shape[3] or bias.shape != x.shape[3:]:
        raise ValueError(
            "expected x (B, H, W, C), taps (k * k, C) and bias (C,), got "
            f"{tuple(x.shape)}, {tuple(taps.shape)}, {tuple(bias.shape)}"
        )
    kernel = round(taps.shape[0] ** 0.5)
    if kernel**2 != taps.shape[0] or kernel % 2 == 0:
        raise ValueError(f"taps must be those of an odd square kernel, got {taps.shape[0]}")
