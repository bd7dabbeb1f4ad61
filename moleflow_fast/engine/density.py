"""The loss of a batch straight from the flow's last state, as one operator with a backward: z is never written.

Between the last block and the first of the backward pass z would be written, read, its gradient written and read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.engine import channel_major
from moleflow_fast.engine.channel_layout import unpack
from moleflow_fast.engine.plan import Plan, parse
from moleflow_fast.engine.slots import split
from moleflow_fast.kernels import channel_major as channel_major_like
from moleflow_fast.kernels import density, latent


def nll(plan: Plan, packed: Sequence[Tensor], log_scales: Tensor, x: Tensor, tasks: Tensor | None = None) -> Tensor:
    """-log p (B, H, W) of x (B, H, W, D), without gradients; arguments as for `channel_major.blocks`."""
    ends, *_ = unpack(plan, packed)
    state, tiles, _ = channel_major.blocks(plan, packed, x, keep=False, tasks=tasks)
    found, logdet = x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1])
    latent.state_nll(state, ends.pending, tiles, log_scales, found, logdet)
    return found


@torch.library.custom_op("moleflow::flow_loss", mutates_args=())
def flow_loss(
    x: Tensor, packed: Sequence[Tensor], params: Sequence[Tensor], log_scales: Tensor, plan: str, tail: int,
    tail_weight: float, lambda_logdet: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """The loss () of x (B, H, W, D), and what its backward needs; arguments as for `flow` and `density.density_loss`.

    Args:
        log_scales: (), the part of the log-determinant that no token changes.
    """
    structure = parse(plan)
    ends, *_ = unpack(structure, packed)
    state, tiles, saved = channel_major.blocks(structure, packed, x, keep=True)
    found, logdet = x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1])
    latent.state_nll(state, ends.pending, tiles, log_scales, found, logdet)
    loss, weights = density.loss_of_patches(found, logdet, tail, tail_weight, lambda_logdet)
    return loss, weights, logdet, state, saved


@flow_loss.register_fake
def _(
    x: Tensor, packed: Sequence[Tensor], params: Sequence[Tensor], log_scales: Tensor, plan: str, tail: int,
    tail_weight: float, lambda_logdet: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:  # fmt: skip
    structure, per_token = parse(plan), x.new_empty(x.shape[:-1])
    state = channel_major_like(structure.channels, per_token.numel(), x)
    saved = channel_major.saved_like(structure, x)
    return x.new_empty(()), torch.empty_like(per_token), per_token, state, saved


@torch.library.custom_op("moleflow::flow_loss_backward", mutates_args=("state", "saved"))
def flow_loss_backward(
    dloss: Tensor, weights: Tensor, logdet: Tensor, state: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor],
    params: Sequence[Tensor], plan: str, lambda_logdet: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (B, H, W, D), of all `params` in one flat tensor, and of logdet (B, H, W).

    It overwrites what `flow_loss` left, so a graph can be gone back through once.
    """
    structure = parse(plan)
    ends, *_ = unpack(structure, packed)
    dlogdet = torch.empty_like(logdet)
    latent.state_gradient(dloss, weights, state, ends.pending, logdet, lambda_logdet, state, dlogdet)
    grid = (logdet.shape[0], logdet.shape[1], logdet.shape[2])
    dx, flat = channel_major.blocks_backward(structure, packed, params, saved, state, dlogdet.flatten(), grid)
    return dx, flat, dlogdet


@flow_loss_backward.register_fake
def _(
    dloss: Tensor, weights: Tensor, logdet: Tensor, state: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor],
    params: Sequence[Tensor], plan: str, lambda_logdet: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dx = logdet.new_empty(*logdet.shape, parse(plan).channels)
    return dx, logdet.new_empty(sum(p.numel() for p in params)), torch.empty_like(logdet)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, packed, params, _, ctx.plan, _, _, ctx.lambda_logdet = inputs
    _, weights, logdet, state, saved = output
    ctx.set_materialize_grads(False)
    ctx.counts = len(packed), len(params)
    ctx.save_for_backward(*packed, *params, weights, logdet, state, *saved)


def _backward(ctx: Any, dloss: Tensor | None, *_: Any) -> tuple[Any, ...]:
    packed_count, params_count = ctx.counts
    tensors = ctx.saved_tensors
    packed, params = tensors[:packed_count], tensors[packed_count : packed_count + params_count]
    nothing = [None] * packed_count, [None] * params_count
    if dloss is None:
        return None, *nothing, None, None, None, None, None
    weights, logdet, state, *saved = tensors[packed_count + params_count :]
    dx, flat, dlogdet = flow_loss_backward(
        dloss, weights, logdet, state, saved, packed, params, ctx.plan, ctx.lambda_logdet
    )
    gradients = split(parse(ctx.plan), flat, params)
    dlog_scales = dlogdet.sum() if ctx.needs_input_grad[3] else None
    return dx, nothing[0], gradients, dlog_scales, None, None, None, None


flow_loss.register_autograd(_backward, setup_context=_setup_context)
