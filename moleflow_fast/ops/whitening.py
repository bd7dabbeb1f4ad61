"""Positions, LayerNorm over channels, and a task's scale and shift: y = gamma * LN(x + positions) + beta."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.backend import operator_on_triton, runs_compiled, runs_on_triton
from moleflow_fast.ops.native import call, forward_only, threads

EPS = 1e-5


def whitening(x: Tensor, gamma: Tensor, beta: Tensor, positions: Tensor | None = None) -> Tensor:
    """y (B, H, W, D), differentiable in x, gamma and beta; positions are constant.

    Args:
        x: patches (B, H, W, D).
        gamma, beta: scale and shift (D,).
        positions: (H, W, D), or None where x already has them.

    Raises:
        ValueError: shapes that do not fit.
    """
    if x.dim() != 4 or not gamma.shape == beta.shape == x.shape[3:]:
        raise ValueError(
            "expected x (B, H, W, D), gamma and beta (D,), got "
            f"{tuple(x.shape)}, {tuple(gamma.shape)}, {tuple(beta.shape)}"
        )
    if positions is not None and positions.shape != x.shape[1:]:
        raise ValueError(f"expected positions {tuple(x.shape[1:])}, got {tuple(positions.shape)}")
    operands = [x, gamma, beta, *([] if positions is None else [positions])]
    if not (runs_compiled(*operands) or runs_on_triton(*operands)):
        return whitening_reference(x, gamma, beta, positions)
    return torch.ops.moleflow.whitening(x, gamma, beta, positions)[0]


def whitening_by_task(x: Tensor, gamma: Tensor, beta: Tensor, tasks: Tensor, positions: Tensor | None = None) -> Tensor:
    """`whitening` without gradients, image b under the scale and shift of tasks[b].

    Args:
        x: (B, H, W, D).
        gamma, beta: (T, D).
        tasks: (B,) int32.
    """
    operands = [x, gamma, beta, *([] if positions is None else [positions])]
    if x.numel() and runs_on_triton(*operands, why_not=forward_only(*operands)):
        given = [t.contiguous() for t in (x, gamma, beta)]
        where = None if positions is None else positions.contiguous()
        return _triton().whitening(*given, where, _period(x), EPS, tasks)[0]
    return whitening_reference(x, gamma[tasks][:, None, None], beta[tasks][:, None, None], positions)


def whitening_reference(x: Tensor, gamma: Tensor, beta: Tensor, positions: Tensor | None = None) -> Tensor:
    """The definition in plain PyTorch."""
    x = x if positions is None else x + positions
    return gamma * F.layer_norm(x, x.shape[-1:], eps=EPS) + beta


def _triton() -> ModuleType:
    """Imported when first needed: an installation for the CPU may lack Triton."""
    from moleflow_fast.kernels import whitening

    return whitening


@torch.library.custom_op("moleflow::whitening", mutates_args=())
def _forward(x: Tensor, gamma: Tensor, beta: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    x = x.contiguous()
    positions = None if positions is None else positions.contiguous()
    if operator_on_triton(x):
        return _triton().whitening(x, gamma.contiguous(), beta.contiguous(), positions, _period(x), EPS)
    y, mean, rstd = torch.empty_like(x), x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1])
    call(
        "whitening_forward", x.dtype, x, positions, _period(x), gamma.contiguous(), beta.contiguous(), y, mean, rstd,
        mean.numel(), x.shape[-1], EPS, threads(),
    )  # fmt: skip
    return y, mean, rstd


@_forward.register_fake
def _(x: Tensor, gamma: Tensor, beta: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1])


@torch.library.custom_op("moleflow::whitening_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, gamma: Tensor, positions: Tensor | None, mean: Tensor, rstd: Tensor, with_dx: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dy, x = dy.contiguous(), x.contiguous()
    positions = None if positions is None else positions.contiguous()
    dgamma, dbeta = x.new_empty(gamma.shape), x.new_empty(gamma.shape)
    if operator_on_triton(x):
        out = dgamma, dbeta
        dx = _triton().whitening_backward(dy, x, gamma.contiguous(), positions, _period(x), mean, rstd, with_dx, out)
        return dx, dgamma, dbeta
    dx = x.new_empty(x.shape if with_dx else 0)
    call(
        "whitening_backward", x.dtype, x, positions, _period(x), gamma.contiguous(), mean, rstd, dy,
        dx if with_dx else None, dgamma, dbeta, mean.numel(), x.shape[-1], threads(),
    )  # fmt: skip
    return dx, dgamma, dbeta


@_backward_op.register_fake
def _(
    dy: Tensor, x: Tensor, gamma: Tensor, positions: Tensor | None, mean: Tensor, rstd: Tensor, with_dx: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape if with_dx else (0,)), x.new_empty(gamma.shape), x.new_empty(gamma.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, _, positions = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gamma, positions, *output[1:])


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dy is None:
        return None, None, None, None
    x, gamma, positions, mean, rstd = ctx.saved_tensors
    with_dx = ctx.needs_input_grad[0]
    dx, dgamma, dbeta = _backward_op(dy, x, gamma, positions, mean, rstd, with_dx)
    return dx if with_dx else None, dgamma, dbeta, None


_forward.register_autograd(_backward, setup_context=_setup_context)


def _period(x: Tensor) -> int:
    """Tokens after which the positions start again."""
    return max(1, x.shape[1] * x.shape[2])
