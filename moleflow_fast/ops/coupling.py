"""Affine coupling of the driven half: y2 = x2 * exp(log-scale) + shift, with the log-determinant.

Both clampings of the method are one form: log-scale = clamp * tanh(s_factor * s), shift = t_factor * t.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from moleflow_fast.backend import runs_compiled
from moleflow_fast.ops.kernels import coupling, coupling_backward


class Clamping(NamedTuple):
    """How a network's output becomes log-scale and shift."""

    clamp: float
    s_factor: float
    t_factor: float


def base_clamping(clamp_alpha: float) -> Clamping:
    """Of the base flow (AllInOne, FrEIA 0.2): both outputs times 0.1."""
    return Clamping(clamp_alpha, 0.1, 0.1)


def task_clamping(clamp_alpha: float) -> Clamping:
    """Of a task flow (DIA): the log-scale is c * tanh(s / c)."""
    return Clamping(clamp_alpha, 1.0 / clamp_alpha, 1.0)


def affine_coupling(x2: Tensor, s: Tensor, t: Tensor, clamping: Clamping) -> tuple[Tensor, Tensor]:
    """y2 (..., C) and logdet (...), differentiable in all three.

    Args:
        x2: driven half (..., C).
        s, t: outputs of the scale and shift networks, same shape.

    Raises:
        ValueError: shapes differ.
    """
    if not x2.shape == s.shape == t.shape:
        raise ValueError(f"x2, s and t must have one shape, got {tuple(x2.shape)}, {tuple(s.shape)}, {tuple(t.shape)}")
    if not runs_compiled(x2, s, t):
        return affine_coupling_reference(x2, s, t, clamping)
    return torch.ops.moleflow.affine_coupling(x2, s, t, *clamping)


def affine_coupling_reference(x2: Tensor, s: Tensor, t: Tensor, clamping: Clamping) -> tuple[Tensor, Tensor]:
    """The definition in plain PyTorch."""
    log_scale = clamping.clamp * torch.tanh(clamping.s_factor * s)
    return x2 * torch.exp(log_scale) + clamping.t_factor * t, log_scale.sum(-1)


@torch.library.custom_op("moleflow::affine_coupling", mutates_args=())
def _forward(x2: Tensor, s: Tensor, t: Tensor, clamp: float, s_factor: float, t_factor: float) -> tuple[Tensor, Tensor]:
    y2, logdet = x2.new_empty(x2.shape), x2.new_zeros(x2.shape[:-1])
    coupling(_rows(s), _rows(t), (None, None), _rows(x2), _rows(y2), logdet, (clamp, s_factor, t_factor))
    return y2, logdet


@_forward.register_fake
def _(x2: Tensor, s: Tensor, t: Tensor, clamp: float, s_factor: float, t_factor: float) -> tuple[Tensor, Tensor]:
    return x2.new_empty(x2.shape), x2.new_empty(x2.shape[:-1])


@torch.library.custom_op("moleflow::affine_coupling_backward", mutates_args=())
def _backward_op(
    dy2: Tensor, dlogdet: Tensor, x2: Tensor, s: Tensor, clamp: float, s_factor: float, t_factor: float
) -> tuple[Tensor, Tensor, Tensor]:
    dx2 = dy2.clone(memory_format=torch.contiguous_format)
    ds, dt = torch.empty_like(dx2), torch.empty_like(dx2)
    sums = x2.new_zeros(2, x2.shape[-1])  # of no use here: the networks' biases are inside s and t
    coupling_backward(
        _rows(s), None, _rows(x2), _rows(dx2), dlogdet.contiguous(), _rows(ds), _rows(dt), (sums[0], sums[1]),
        (clamp, s_factor, t_factor),
    )  # fmt: skip
    return dx2, ds, dt


@_backward_op.register_fake
def _(
    dy2: Tensor, dlogdet: Tensor, x2: Tensor, s: Tensor, clamp: float, s_factor: float, t_factor: float
) -> tuple[Tensor, Tensor, Tensor]:
    return x2.new_empty(x2.shape), x2.new_empty(x2.shape), x2.new_empty(x2.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x2, s, _, *ctx.clamping = inputs
    ctx.save_for_backward(x2, s)


def _backward(ctx: Any, dy2: Tensor, dlogdet: Tensor) -> tuple[Tensor | None, ...]:
    x2, s = ctx.saved_tensors
    return (*_backward_op(dy2, dlogdet, x2, s, *ctx.clamping), None, None, None)


_forward.register_autograd(_backward, setup_context=_setup_context)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1, tensor.shape[-1])
