"""A linear layer with its low-rank part merged: one product forward, factored weight gradients backward.

y = x (W + scaling B A)^T + bias. Three products become one: for N tokens, in = out = 768 and r = 64 this saves
N r (in + out) multiply-adds, a sixth of the product with W, at the price of merging once: r in out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.backend import runs_compiled


def lora_linear(x: Tensor, weight: Tensor, bias: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    """y (..., out), differentiable in all tensors; gradients of frozen ones are not computed.

    Args:
        x: (..., in).
        weight: W (out, in).
        bias: (out,), the base bias and the task's added up.
        lora_a, lora_b: A (r, in) and B (out, r).
        scaling: alpha / r.

    Raises:
        ValueError: shapes that do not fit.
    """
    outputs, inputs = weight.shape
    rank = lora_a.shape[0]
    if x.shape[-1] != inputs or bias.shape != (outputs,) or lora_a.shape != (rank, inputs):
        raise ValueError(
            f"expected x (..., {inputs}), bias ({outputs},) and A (r, {inputs}) for W {tuple(weight.shape)}, got "
            f"{tuple(x.shape)}, {tuple(bias.shape)}, {tuple(lora_a.shape)}"
        )
    if lora_b.shape != (outputs, rank):
        raise ValueError(f"expected B {(outputs, rank)}, got {tuple(lora_b.shape)}")
    if not runs_compiled(x, weight, bias, lora_a, lora_b):
        return lora_linear_reference(x, weight, bias, lora_a, lora_b, scaling)
    merged = torch.addmm(weight.detach(), lora_b.detach(), lora_a.detach(), alpha=scaling)
    return torch.ops.moleflow.lora_linear(x, weight, bias, lora_a, lora_b, scaling, merged)


def lora_linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float
) -> Tensor:
    """The definition: three products."""
    return F.linear(x, weight, bias) + scaling * F.linear(F.linear(x, lora_a), lora_b)


@torch.library.custom_op("moleflow::lora_linear", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, merged: Tensor
) -> Tensor:
    return F.linear(x, merged, bias)


@_forward.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, merged: Tensor
) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, _, lora_a, lora_b, ctx.scaling, merged = inputs
    ctx.save_for_backward(x, lora_a, lora_b, merged)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, lora_a, lora_b, merged = ctx.saved_tensors
    for_x, for_weight, for_bias, for_a, for_b, *_ = ctx.needs_input_grad
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dweight = dlora_a = dlora_b = None
    if for_weight or ((for_a or for_b) and not factored_is_cheaper(lora_a, lora_b)):
        dweight = drows.t() @ rows
    if for_a or for_b:
        if dweight is None:
            dlora_a, dlora_b = factored_gradients(lora_a, lora_b, ctx.scaling, rows, drows)
        else:
            dlora_a, dlora_b = gradients_from_dense(lora_a, lora_b, ctx.scaling, dweight)
    return (
        dy @ merged if for_x else None,
        dweight if for_weight else None,
        drows.sum(0) if for_bias else None,
        dlora_a,
        dlora_b,
        None,
        None,
    )


def factored_is_cheaper(lora_a: Tensor, lora_b: Tensor) -> bool:
    """Whether 2 r (in + out) multiply-adds a token are fewer than the in * out of the dense weight gradient."""
    rank, inputs = lora_a.shape
    return 2 * rank * (inputs + lora_b.shape[0]) < inputs * lora_b.shape[0]


def factored_gradients(lora_a: Tensor, lora_b: Tensor, scaling: float, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """dA (r, in) = scaling (dy B)^T x and dB (out, r) = scaling dy^T (x A^T), for x (n, in), dy (n, out)."""
    down, up = lora_a.to(x.dtype), lora_b.to(x.dtype)
    # dA transposed: (in, n) x (n, r) runs at 148 GFLOP/s, (r, n) x (n, in) at 104 (n 784, r 64, in 768, two cores).
    return weight_gradient((dy @ up).mul_(scaling), x).t(), weight_gradient((x @ down.t()).mul_(scaling), dy)


def weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """dy^T x (out, in) for x (n, in) and dy (n, out); of bf16 operands in fp32, as optimizers want it."""
    if x.dtype != torch.bfloat16:
        return dy.t() @ x
    return torch.mm(dy.t(), x, out_dtype=torch.float32) if x.is_cuda else dy.t().float() @ x.float()


def gradients_from_dense(lora_a: Tensor, lora_b: Tensor, scaling: float, dweight: Tensor) -> tuple[Tensor, Tensor]:
    """The same from dW = dy^T x (out, in): dA = scaling B^T dW, dB = scaling dW A^T."""
    return scaling * (lora_b.t() @ dweight), scaling * (dweight @ lora_a.t())


_forward.register_autograd(_backward, setup_context=_setup_context)
