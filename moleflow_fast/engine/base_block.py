"""One coupling block of the base flow on a chunk of tokens: forward, and backward from what forward kept.

The input of a block with context has columns [x1 | c | x2]: the context channels c are written between the halves, so
that [x1, c], which the scale network reads, is a view and never a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from moleflow_fast.engine.buffers import Buffers
from moleflow_fast.engine.gradients import Gradients
from moleflow_fast.engine.plan import Plan
from moleflow_fast.ops.coupling import GlobalAffine, base_clamping, base_coupling, base_coupling_backward
from moleflow_fast.ops.depthwise import depthwise_tokens, tap_gradients
from moleflow_fast.ops.linear_relu import linear_relu, relu_backward

FACTOR = base_clamping(1.0).s_factor  # of the network's output, in log-scale and shift alike

Grid = tuple[int, int, int]  # images, H, W


class BaseBlock(NamedTuple):
    """Merged weights (out, in) and biases; `source[i]` is the channel that the permutation puts at i (int32).

    Without context, s1 and s2 are the layers of the one network and the t layers are absent (empty tensors).
    """

    source: Tensor
    scale: Tensor
    offset: Tensor
    taps: Tensor  # (k * k, split), the strength a of the context folded in
    taps_bias: Tensor
    s1: Tensor
    s1_bias: Tensor
    s2: Tensor
    s2_bias: Tensor
    t1: Tensor
    t1_bias: Tensor
    t2: Tensor
    t2_bias: Tensor


class ContextKept(NamedTuple):
    """What a block with context keeps for its backward pass: (n, width) each."""

    x: Tensor  # with its context between the halves
    s: Tensor
    scale_hidden: Tensor  # after the ReLU
    shift_hidden: Tensor


class PlainKept(NamedTuple):
    """The same of a block without context, whose one network gives s and t."""

    x: Tensor
    outputs: Tensor
    hidden: Tensor


Kept = ContextKept | PlainKept


def kept_widths(plan: Plan, index: int) -> list[int]:
    """Columns of what `forward` keeps, field by field."""
    half, hidden, width = plan.channels - plan.split, 2 * plan.split, plan.channels + plan.gap(index)
    return [width, half, hidden, hidden] if plan.kernels[index] else [width, 2 * half, hidden]


def kept_from(plan: Plan, index: int, tensors: Iterator[Tensor]) -> Kept:
    """What block `index` kept, of the tensors that come next."""
    kind = ContextKept if plan.kernels[index] else PlainKept
    return kind(*islice(tensors, len(kind._fields)))


def forward(
    block: BaseBlock, plan: Plan, index: int, x: Tensor, out: Tensor, out_gap: int, logdet: Tensor, grid: Grid,
    buffers: Buffers,
) -> Kept:  # fmt: skip
    """Write the block's result to `out`, which may be x; returns what backward needs.

    Args:
        x: (n, D + gap), halves apart by this block's gap.
        out: (n, D + out_gap).
        logdet: (n,), gets the log-scales added (the global scale's part is a constant of the flow).
    """
    kept: Kept
    if plan.kernels[index]:
        s, t, hidden = _context_networks(block, plan, x, grid, buffers)
        kept = ContextKept(x, s, *hidden)
    else:
        both, hidden_layer = _plain_network(block, plan, x, buffers)
        half = both.shape[1] // 2
        s, t = both[:, :half], both[:, half:]
        kept = PlainKept(x, both, hidden_layer)
    biases = _output_biases(block, plan, index)
    base_coupling(s, t, biases, x, out, logdet, _global_affine(block, plan), base_clamping(plan.clamp))
    return kept


def backward(
    block: BaseBlock, plan: Plan, index: int, kept: Kept, dy: Tensor, dlogdet: Tensor, grid: Grid,
    gradients: Gradients, buffers: Buffers,
) -> None:  # fmt: skip
    """dy (n, D) becomes dx (n, D) in place; parameter gradients go to `gradients`."""
    layer, x = f"flow.{index}", kept.x
    half = plan.channels - plan.split
    if gradients.wants(f"{layer}.scale") or gradients.wants(f"{layer}.offset"):
        _global_affine_gradients(block, plan, index, kept, dy, gradients)
    x1, x2 = x[:, : plan.split], x[:, plan.split + plan.gap(index) :]
    outputs = buffers.scratch("outputs", 2 * half)
    ds, dt = outputs[:, :half], outputs[:, half:]
    s = _log_scales(kept, half)
    s_bias, _ = _output_biases(block, plan, index)
    sums = _output_bias_gradients(plan, index, gradients, x)
    affine = _global_affine(block, plan)
    base_coupling_backward(s, s_bias, x2, dy, dlogdet, ds, dt, sums, affine, base_clamping(plan.clamp))
    dx1 = dy[:, : plan.split]
    if isinstance(kept, PlainKept):
        hidden = kept.hidden
        dh = _through_second(outputs, block.s2, hidden, f"{layer}.s1", gradients, buffers)
        gradients.linear(f"{layer}.s2", hidden, outputs)
        gradients.linear(f"{layer}.s1", x1, dh)
        torch.addmm(dx1, dh, block.s1, out=dx1)
        return
    hs, ht = kept.scale_hidden, kept.shift_hidden
    both = x[:, : 2 * plan.split]
    dh = _through_second(ds, block.s2, hs, f"{layer}.s1", gradients, buffers)
    gradients.linear(f"{layer}.s2", hs, ds)
    gradients.linear(f"{layer}.s1", both, dh)
    torch.addmm(dx1, dh, block.s1[:, : plan.split], out=dx1)
    dc = torch.mm(dh, block.s1[:, plan.split :], out=buffers.scratch("context", plan.split))
    dh = _through_second(dt, block.t2, ht, f"{layer}.t1", gradients, buffers)
    gradients.linear(f"{layer}.t2", ht, dt)
    gradients.linear(f"{layer}.t1", x1, dh)
    torch.addmm(dx1, dh, block.t1, out=dx1)
    # The transposed convolution of an odd kernel is the convolution with the taps in reverse order.
    depthwise_tokens(dc, block.taps.flip(0), None, dx1, grid, accumulate=True)
    if gradients.wants(f"{layer}.taps"):
        dtaps = gradients.sum_for(f"{layer}.taps", x)
        tap_gradients(x1, dc, dtaps, gradients.sum_for(f"{layer}.taps_bias", x), grid)


def _log_scales(kept: Kept, half: int) -> Tensor:
    """s (n, half) before its clamping."""
    return kept.outputs[:, :half] if isinstance(kept, PlainKept) else kept.s


def _context_networks(
    block: BaseBlock, plan: Plan, x: Tensor, grid: Grid, buffers: Buffers
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    x1, context, both = x[:, : plan.split], x[:, plan.split : 2 * plan.split], x[:, : 2 * plan.split]
    depthwise_tokens(x1, block.taps, block.taps_bias, context, grid)
    hs = linear_relu(both, block.s1, block.s1_bias, buffers.kept("hs", block.s1.shape[0]))
    ht = linear_relu(x1, block.t1, block.t1_bias, buffers.kept("ht", block.t1.shape[0]))
    s = torch.mm(hs, block.s2.t(), out=buffers.kept("s", block.s2.shape[0]))
    return s, torch.mm(ht, block.t2.t(), out=buffers.scratch("t", block.t2.shape[0])), (hs, ht)


def _plain_network(block: BaseBlock, plan: Plan, x: Tensor, buffers: Buffers) -> tuple[Tensor, Tensor]:
    hidden = linear_relu(x[:, : plan.split], block.s1, block.s1_bias, buffers.kept("hs", block.s1.shape[0]))
    return torch.mm(hidden, block.s2.t(), out=buffers.kept("s", block.s2.shape[0])), hidden


def _through_second(
    dy: Tensor, weight: Tensor, hidden: Tensor, layer: str, gradients: Gradients, buffers: Buffers
) -> Tensor:
    """Gradient before the ReLU of `layer`, whose bias gradient is added up on the way."""
    dh = torch.mm(dy, weight, out=buffers.scratch("hidden", weight.shape[1]))
    relu_backward(dh, hidden, gradients.vector(layer, dh.shape[1], dh))
    return dh


def _global_affine(block: BaseBlock, plan: Plan) -> GlobalAffine:
    return GlobalAffine(block.scale, block.offset, block.source, plan.split)


def _output_biases(block: BaseBlock, plan: Plan, index: int) -> tuple[Tensor, Tensor]:
    if plan.kernels[index]:
        return block.s2_bias, block.t2_bias
    half = plan.channels - plan.split
    return block.s2_bias[:half], block.s2_bias[half:]


def _output_bias_gradients(plan: Plan, index: int, gradients: Gradients, like: Tensor) -> tuple[Tensor, Tensor]:
    half = plan.channels - plan.split
    if plan.kernels[index]:
        s, t = (gradients.vector(f"flow.{index}.{net}2", half, like) for net in "st")
        return s, t
    both = gradients.vector(f"flow.{index}.s2", 2 * half, like)
    return both[:half], both[half:]


def _global_affine_gradients(
    block: BaseBlock, plan: Plan, index: int, kept: Kept, dy: Tensor, gradients: Gradients
) -> None:
    """Scale and offset train in a task's own flow alone, so this recomputes rather than keeps."""
    half, x = plan.channels - plan.split, kept.x
    s = _log_scales(kept, half)
    t = kept.outputs[:, half:] if isinstance(kept, PlainKept) else torch.mm(kept.shift_hidden, block.t2.t())
    s_bias, t_bias = _output_biases(block, plan, index)
    log_scale = plan.clamp * torch.tanh(FACTOR * (s + s_bias))
    driven = x[:, plan.split + plan.gap(index) :] * torch.exp(log_scale) + FACTOR * (t + t_bias)
    mapped = torch.cat([x[:, : plan.split], driven], dim=1)
    before = torch.empty_like(dy)
    before[:, block.source.long()] = dy
    gradients.add(f"flow.{index}.scale", (before * mapped).sum(0))
    gradients.add(f"flow.{index}.offset", before.sum(0))
