"""LayerNorm over channels with a task's scale and shift: y = gamma * LN(x) + beta."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import operator_on_triton, runs_compiled, runs_on_triton
from moleflow_fast.ops.native import forward_only, threads

EPS = 1e-5


def whitening(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """y (B, H, W, D), differentiable in all three.

    Args:
        x: patches (B, H, W, D).
        gamma, beta: scale and shift (D,).

    Raises:
        ValueError: shapes that do not fit.
    """
    if x.dim() != 4 or not gamma.shape == beta.shape == x.shape[3:]:
        raise ValueError(
            "expected x (B, H, W, D), gamma and beta (D,), got "
            f"{tuple(x.shape)}, {tuple(gamma.shape)}, {tuple(beta.shape)}"
        )
    if not (runs_compiled(x, gamma, beta) or runs_on_triton(x, gamma, beta)):
        return whitening_reference(x, gamma, beta)
    return torch.ops.moleflow.whitening(x, gamma, beta)[0]


def whitening_by_task(x: Tensor, gamma: Tensor, beta: Tensor, tasks: Tensor, positions: Tensor | None = None) -> Tensor:
    """`whitening` of x + positions without gradients, image b under the scale and shift of tasks[b].

    Args:
        x: (B, H, W, D).
        gamma, beta: (T, D).
        tasks: (B,) int32.
        positions: (H, W, D), or None where x has them.
    """
    operands = [x, gamma, beta, *([] if positions is None else [positions])]
    if x.numel() and runs_on_triton(*operands, why_not=forward_only(*operands)):
        given = [t.contiguous() for t in (x, gamma, beta)]
        where = None if positions is None else positions.contiguous()
        return _triton().whitening(*given, EPS, tasks, where)[0]
    x = x if positions is None else x + positions
    return whitening_reference(x, gamma[tasks][:, None, None], beta[tasks][:, None, None])


def whitening_reference(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The definition in plain PyTorch."""
    return gamma * F.layer_norm(x, x.shape[-1:], eps=EPS) + beta


def _triton() -> ModuleType:
    """Imported when first needed: an installation for the CPU may lack Triton."""
    from moleflow_fast.kernels import whitening

    return whitening


@torch.library.custom_op("moleflow::whitening", mutates_args=())
def _forward(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, gamma, beta = x.contiguous(), gamma.contiguous(), beta.contiguous()
    if operator_on_triton(x):
        return _triton().whitening(x, gamma, beta, EPS)
    y, mean, rstd = torch.empty_like(x), x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1])
    compiled.whitening_forward(x, gamma, beta, y, mean, rstd, EPS, threads())
    return y, mean, rstd


@_forward.register_fake
def _(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1])


@torch.library.custom_op("moleflow::whitening_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, rstd: Tensor, with_dx: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dy, x, gamma = dy.contiguous(), x.contiguous(), gamma.contiguous()
    dgamma, dbeta = x.new_empty(gamma.shape), x.new_empty(gamma.shape)
    if operator_on_triton(x):
        dx = _triton().whitening_backward(dy, x, gamma, mean, rstd, with_dx, (dgamma, dbeta))
        return dx, dgamma, dbeta
    dx = x.new_empty(x.shape if with_dx else 0)
    compiled.whitening_backward(x, gamma, mean, rstd, dy, dx if with_dx else None, dgamma, dbeta, threads())
    return dx, dgamma, dbeta


@_backward_op.register_fake
def _(dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, rstd: Tensor, with_dx: bool) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape if with_dx else (0,)), x.new_empty(gamma.shape), x.new_empty(gamma.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gamma, *output[1:])


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dy is None:
        return None, None, None
    x, gamma, mean, rstd = ctx.saved_tensors
    with_dx = ctx.needs_input_grad[0]
    dx, dgamma, dbeta = _backward_op(dy, x, gamma, mean, rstd, with_dx)
    return dx if with_dx else None, dgamma, dbeta


_forward.register_autograd(_backward, setup_context=_setup_context)
