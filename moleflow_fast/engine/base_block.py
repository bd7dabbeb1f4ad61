"""One coupling block of the base flow on a chunk of tokens: forward, and backward from what forward kept.

The input of a block with context has columns [x1 | c | x2]: the context channels c are written between the halves, so
that [x1, c], which the scale network reads, is a view and never a copy.
"""

from __future__ import annotations

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


def forward(
    block: BaseBlock, plan: Plan, index: int, x: Tensor, out: Tensor, out_gap: int, logdet: Tensor, grid: Grid,
    buffers: Buffers,
) -> list[Tensor]:  # fmt: skip
    """Write the block's result to `out`, which may be x; returns what backward needs besides x.

    Args:
        x: (n, D + gap), halves apart by this block's gap.
        out: (n, D + out_gap).
        logdet: (n,), gets the log-scales added (the global scale's part is a constant of the flow).
    """
    if plan.kernels[index]:
        s, t, hidden = _context_networks(block, plan, x, grid, buffers)
        kept = [s, *hidden]
    else:
        both, hidden_layer = _plain_network(block, plan, x, buffers)
        half = both.shape[1] // 2
        s, t = both[:, :half], both[:, half:]
        kept = [both, hidden_layer]
    biases = _output_biases(block, plan, index)
    base_coupling(s, t, biases, x, out, logdet, _global_affine(block, plan), base_clamping(plan.clamp))
    return kept


def backward(
    block: BaseBlock, plan: Plan, index: int, x: Tensor, kept: list[Tensor], dy: Tensor, dlogdet: Tensor, grid: Grid,
    gradients: Gradients, buffers: Buffers,
) -> None:  # fmt: skip
    """dy (n, D) becomes dx (n, D) in place; parameter gradients go to `gradients`."""
    layer = f"flow.{index}"
    half = plan.channels - plan.split
    if gradients.wants(f"{layer}.scale") or gradients.wants(f"{layer}.offset"):
        _global_affine_gradients(block, plan, index, x, kept, dy, gradients)
    x1, x2 = x[:, : plan.split], x[:, plan.split + plan.gap(index) :]
    outputs = buffers.scratch("outputs", 2 * half)
    ds, dt = outputs[:, :half], outputs[:, half:]
    s = kept[0][:, :half]
    s_bias, _ = _output_biases(block, plan, index)
    sums = _output_bias_gradients(plan, index, gradients, x)
    affine = _global_affine(block, plan)
    base_coupling_backward(s, s_bias, x2, dy, dlogdet, ds, dt, sums, affine, base_clamping(plan.clamp))
    dx1 = dy[:, : plan.split]
    if not plan.kernels[index]:
        hidden = kept[1]
        dh = _through_second(outputs, block.s2, hidden, f"{layer}.s1", gradients, buffers)
        gradients.linear(f"{layer}.s2", hidden, outputs)
        gradients.linear(f"{layer}.s1", x1, dh)
        torch.addmm(dx1, dh, block.s1, out=dx1)
        return
    _, hs, ht = kept
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
    block: BaseBlock, plan: Plan, index: int, x: Tensor, kept: list[Tensor], dy: Tensor, gradients: Gradients
) -> None:
    """Scale and offset train in a task's own flow alone, so this recomputes rather than keeps."""
    half = plan.channels - plan.split
    s = kept[0][:, :half]
    t = torch.mm(kept[2], block.t2.t()) if plan.kernels[index] else kept[0][:, half:]
    s_bias, t_bias = _output_biases(block, plan, index)
    log_scale = plan.clamp * torch.tanh(FACTOR * (s + s_bias))
    driven = x[:, plan.split + plan.gap(index) :] * torch.exp(log_scale) + FACTOR * (t + t_bias)
    mapped = torch.cat([x[:, : plan.split], driven], dim=1)
    before = torch.empty_like(dy)
    before[:, block.source.long()] = dy
    gradients.add(f"flow.{index}.scale", (before * mapped).sum(0))
    gradients.add(f"flow.{index}.offset", before.sum(0))
