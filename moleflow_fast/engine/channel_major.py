"""The whole flow of a task on a GPU: Triton kernels on channel-major tokens, the batch in one piece.

Permutations are row indices fixed when the flow is packed, so nothing is ever permuted: the state (D, N) keeps its
rows where they are, and a block reads and writes the rows that its halves have come to. Scales and offsets of rows
that a block passes on are pending until a later block reads them. See `kernels` for the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.engine.base_block import BaseBlock
from moleflow_fast.engine.gradients import Gradients
from moleflow_fast.engine.plan import Plan
from moleflow_fast.engine.task_block import TaskCoupling
from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.coupling import coupling_backward, coupling_product, logdet_tiles
from moleflow_fast.kernels.products import relu_gradient_product, relu_product
from moleflow_fast.kernels.rows import gather_rows, scatter_gradient, taps_gradient
from moleflow_fast.kernels.transpose import enter, leave
from moleflow_fast.ops.coupling import base_clamping, task_clamping

Grid = tuple[int, int, int]  # images, H, W


class Ends(NamedTuple):
    """Row of each channel when tokens enter and when they leave (D,) int32, and what is pending then (D, 2)."""

    entry: Tensor
    exit: Tensor
    pending: Tensor


class BaseWeights(NamedTuple):
    """A base block. Weights are in the operands' dtype, the scale network's rows first; the rest is fp32."""

    rows: Tensor  # (D,) int32: row of each channel as the block numbers them, the driving half first
    pending: Tensor  # (D, 2): scale and offset that each row still lacks
    affine: Tensor  # (D, 2): the block's global scale and offset
    taps: Tensor  # (k * k, split)
    taps_bias: Tensor
    first: Tensor  # (2 h, 2 split) with context: the shift network's part ends at `split`; else (h, split)
    first_bias: Tensor
    second: Tensor  # (2 half, h)
    second_bias: Tensor


class TaskWeights(NamedTuple):
    """A coupling of the task flow; as `BaseWeights`."""

    rows: Tensor
    pending: Tensor
    affine: Tensor
    first: Tensor  # (2 h, driver)
    first_bias: Tensor
    middle: Tensor  # (2 h, h)
    middle_bias: Tensor
    last: Tensor  # (2 driven, h)
    last_bias: Tensor


def pack(plan: Plan, base: Sequence[BaseBlock], own: Sequence[TaskCoupling], reference: Tensor) -> list[Tensor]:
    """The tensors that `forward` and `backward` read, in their order."""
    dtype = plan.operand_dtype
    rows = torch.arange(plan.channels, dtype=torch.int32, device=reference.device)
    identity = torch.tensor([1.0, 0.0], device=reference.device).repeat(plan.channels, 1)
    entry, pending = rows, identity
    packed: list[Tensor] = []
    for block in base:
        affine = torch.stack([block.scale, block.offset], dim=1)
        packed += BaseWeights(rows, pending, affine, block.taps, block.taps_bias, *_base_layers(block, dtype))
        pending = _pass_on(pending, rows[: plan.split], affine[: plan.split], rows[plan.split :])
        rows = rows[block.source.long()]
    for structure, coupling in zip(plan.task_blocks, own, strict=True):
        driver, driven = plan.halves(structure)
        order = torch.cat([rows[driver], rows[driven]])
        packed += TaskWeights(order, pending, identity, *_task_layers(coupling, dtype))
        pending = _pass_on(pending, rows[driver], identity[driver], rows[driven])
    return [*Ends(entry, rows, pending), *packed]


def forward(plan: Plan, packed: Sequence[Tensor], x: Tensor, keep: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """z (B, H, W, D), logdet (B, H, W) and, with `keep`, what backward needs, of x (B, H, W, D) fp32."""
    images, height, width, channels = x.shape
    tokens = images * height * width
    ends, base, own = _unpack(plan, packed)
    state = enter(x.reshape(tokens, channels), ends.entry, channel_major(channels, tokens, x))
    driven = [block.second.shape[0] // 2 for block in base] + [block.last.shape[0] // 2 for block in own]
    tiles = [logdet_tiles(rows, tokens, plan.operand_dtype) for rows in driven]
    logdet = channel_major(sum(tiles), tokens, x)
    parts = iter(logdet.split(tiles) if tiles else ())
    saved: list[Tensor] = []
    for kernel, block in zip(plan.kernels, base, strict=True):
        saved += _base_forward(plan, kernel, block, state, next(parts), (images, height, width), keep)
    for index, coupling in enumerate(own):
        saved += _task_forward(plan, index, coupling, state, next(parts), (images, height, width), keep)
    z = leave(state, ends.exit, ends.pending, x.new_empty(tokens, channels))
    return z.view(x.shape), logdet.sum(0).view(x.shape[:-1]), saved


def backward(
    plan: Plan, packed: Sequence[Tensor], params: Sequence[Tensor], saved: Sequence[Tensor], dz: Tensor,
    dlogdet: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x (B, H, W, D), then of each of `params`."""
    images, height, width, channels = dz.shape
    grid, tokens = (images, height, width), images * height * width
    ends, base, own = _unpack(plan, packed)
    gradients = Gradients(dict(zip(plan.slots, params, strict=True)), plan.scaling)
    grad = enter(dz.reshape(tokens, channels), ends.exit, channel_major(channels, tokens, dz))
    dlogdet = dlogdet.reshape(tokens)
    kept = list(saved)
    for index in reversed(range(len(own))):
        kept, mine = kept[:-5], kept[-5:]
        _task_backward(plan, index, own[index], mine, grad, dlogdet, gradients, grid)
    for index in reversed(range(len(base))):
        kept, mine = kept[:-4], kept[-4:]
        _base_backward(plan, index, base[index], mine, grad, dlogdet, gradients, grid)
    dx = leave(grad, ends.entry, None, dz.new_empty(tokens, channels))
    return [dx.view(dz.shape), *gradients.in_order(plan.slots, dz)]


def saved_like(plan: Plan, x: Tensor) -> list[Tensor]:
    """Uninitialised tensors of the shapes, strides and dtypes that `forward` keeps."""
    tokens, dtype = x.shape[0] * x.shape[1] * x.shape[2], plan.operand_dtype
    half, hidden = plan.channels - plan.split, 2 * plan.split
    shapes: list[tuple[int, torch.dtype]] = []
    for kernel in plan.kernels:
        shapes += [(plan.split * (2 if kernel else 1), dtype), (hidden * (2 if kernel else 1), dtype)]
        shapes += [(half, x.dtype), (half, x.dtype)]
    for block in plan.task_blocks:
        driver, driven = (half.stop - half.start for half in plan.halves(block))
        shapes += [(driver, dtype), (2 * block.hidden, dtype), (2 * block.hidden, dtype)]
        shapes += [(driven, x.dtype), (driven, x.dtype)]
    return [channel_major(rows, tokens, x, kind) for rows, kind in shapes]


def _base_forward(
    plan: Plan, kernel: int, block: BaseWeights, state: Tensor, logdet: Tensor, grid: Grid, keep: bool
) -> list[Tensor]:
    split, tokens, dtype = plan.split, state.shape[1], plan.operand_dtype
    operand = channel_major(split * (2 if kernel else 1), tokens, state, dtype)
    context = (block.taps, block.taps_bias) if kernel else None
    gather_rows(state, block.rows[:split], block.pending, operand, context, grid)
    hidden = channel_major(block.first.shape[0], tokens, state, dtype)
    relu_product(block.first, block.first_bias, operand, hidden, (2 * split, split) if kernel else None)
    kept = _kept(state, plan.channels - split) if keep else None
    coupling_product(
        block.second, block.second_bias, _both(hidden, block.second.shape[1]), state, block.rows[split:], block.pending,
        block.affine[split:], logdet, base_clamping(plan.clamp), kept,
    )  # fmt: skip
    return [operand, hidden, *kept] if kept else []


def _base_backward(
    plan: Plan, index: int, block: BaseWeights, kept: list[Tensor], grad: Tensor, dlogdet: Tensor,
    gradients: Gradients, grid: Grid,
) -> None:  # fmt: skip
    operand, hidden, s, x2 = kept
    split, half, kernel = plan.split, s.shape[0], plan.kernels[index]
    tokens, units, name = s.shape[1], block.second.shape[1], f"flow.{index}"
    if gradients.wants(f"{name}.scale") or gradients.wants(f"{name}.offset"):
        _global_affine_gradients(plan, name, block, kept, grad, gradients)
    dout = channel_major(2 * half, tokens, s, plan.operand_dtype)
    sums = coupling_backward(
        s, x2, grad, block.rows[split:], block.affine[split:], dlogdet, dout, base_clamping(plan.clamp)
    )
    dh = torch.empty_like(hidden)
    networks = 2 if kernel else 1
    _, hidden_sums = relu_gradient_product(block.second, dout, hidden, dh, networks)
    if kernel:
        _take(gradients, name, "st", 2, hidden, dout, sums)
        inputs = (operand, operand[:split])
        _take(gradients, name, "st", 1, inputs, dh, hidden_sums)
    else:
        _take(gradients, name, "s", 2, (hidden,), dout, sums)
        _take(gradients, name, "s", 1, (operand,), dh, hidden_sums)
    dx = torch.empty_like(operand)
    torch.mm(block.first[:, :split].t(), dh, out=dx[:split])
    if kernel:
        torch.mm(block.first[:units, split:].t(), dh[:units], out=dx[split:])
        if gradients.wants(f"{name}.taps"):
            dtaps, dbias = taps_gradient(operand[:split], dx[split:], kernel, grid)
            gradients.add(f"{name}.taps", dtaps)
            gradients.add(f"{name}.taps_bias", dbias)
    taps = block.taps if kernel else None
    scatter_gradient(dx, block.rows[:split], block.affine[:split], taps, grad, grid)


def _global_affine_gradients(
    plan: Plan, name: str, block: BaseWeights, kept: list[Tensor], grad: Tensor, gradients: Gradients
) -> None:
    """Scale and offset train in a task's own flow alone, so the shift is computed again rather than kept."""
    operand, hidden, s, x2 = kept
    half, (clamp, s_factor, t_factor) = s.shape[0], base_clamping(plan.clamp)
    _, own = _both(hidden, block.second.shape[1])
    t = (block.second[half:] @ own).float() + block.second_bias[half:, None]
    driven = x2 * torch.exp(clamp * torch.tanh(s_factor * s)) + t_factor * t
    before = grad[block.rows.long()]
    gradients.add(f"{name}.scale", (before * torch.cat([operand[: plan.split].float(), driven])).sum(1))
    gradients.add(f"{name}.offset", before.sum(1))


def _task_forward(
    plan: Plan, index: int, block: TaskWeights, state: Tensor, logdet: Tensor, grid: Grid, keep: bool
) -> list[Tensor]:
    tokens, dtype, units = state.shape[1], plan.operand_dtype, plan.task_blocks[index].hidden
    driver = block.first.shape[1]
    operand = channel_major(driver, tokens, state, dtype)
    gather_rows(state, block.rows[:driver], block.pending, operand, None, grid)
    first = relu_product(block.first, block.first_bias, operand, channel_major(2 * units, tokens, state, dtype))
    middle = channel_major(2 * units, tokens, state, dtype)
    relu_product(block.middle, block.middle_bias, first, middle, (units, units), first_row=units)
    kept = _kept(state, plan.channels - driver) if keep else None
    coupling_product(
        block.last, block.last_bias, _both(middle, units), state, block.rows[driver:], block.pending,
        block.affine[driver:], logdet, task_clamping(plan.clamp), kept,
    )  # fmt: skip
    return [operand, first, middle, *kept] if kept else []


def _task_backward(
    plan: Plan, index: int, block: TaskWeights, kept: list[Tensor], grad: Tensor, dlogdet: Tensor,
    gradients: Gradients, grid: Grid,
) -> None:  # fmt: skip
    operand, first, middle, s, x2 = kept
    driver, name = operand.shape[0], f"dia.{index}"
    dout = channel_major(2 * s.shape[0], s.shape[1], s, plan.operand_dtype)
    sums = coupling_backward(
        s, x2, grad, block.rows[driver:], block.affine[driver:], dlogdet, dout, task_clamping(plan.clamp)
    )
    _take(gradients, name, "st", 3, middle, dout, sums)
    dmiddle, sums = relu_gradient_product(block.last, dout, middle, torch.empty_like(middle), 2)
    _take(gradients, name, "st", 2, first, dmiddle, sums)
    dfirst, sums = relu_gradient_product(block.middle, dmiddle, first, torch.empty_like(first), 2)
    _take(gradients, name, "st", 1, (operand, operand), dfirst, sums)
    dx = torch.mm(block.first.t(), dfirst, out=torch.empty_like(operand))
    scatter_gradient(dx, block.rows[:driver], block.affine[:driver], None, grad, grid)


def _take(
    gradients: Gradients, name: str, networks: str, layer: int, inputs: Tensor | tuple[Tensor, ...], dout: Tensor,
    sums: Tensor,
) -> None:  # fmt: skip
    """Gradients of one layer of each network; inputs that are one tensor hold one network's after the other's."""
    if isinstance(inputs, Tensor):
        inputs = inputs.chunk(len(networks))
    parts = zip(networks, inputs, dout.chunk(len(networks)), sums.chunk(len(networks)), strict=True)
    for network, x, dy, bias in parts:
        gradients.vector(f"{name}.{network}{layer}", bias.numel(), bias).add_(bias)
        gradients.linear(f"{name}.{network}{layer}", x.t(), dy.t())


def _kept(state: Tensor, half: int) -> tuple[Tensor, Tensor]:
    return channel_major(half, state.shape[1], state), channel_major(half, state.shape[1], state)


def _both(hidden: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """Hidden layers of the scale and the shift network, which are one where there is no context."""
    return hidden[:units], hidden[-units:]


def _base_layers(block: BaseBlock, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if block.t1.numel() == 0:
        return block.s1.to(dtype), block.s1_bias, block.s2.to(dtype), block.s2_bias
    padded = F.pad(block.t1, (0, block.s1.shape[1] - block.t1.shape[1]))
    return (
        torch.cat([block.s1, padded]).to(dtype), torch.cat([block.s1_bias, block.t1_bias]),
        torch.cat([block.s2, block.t2]).to(dtype), torch.cat([block.s2_bias, block.t2_bias]),
    )  # fmt: skip


def _task_layers(block: TaskCoupling, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (
        block.first.to(dtype), block.first_bias,
        torch.cat([block.s2, block.t2]).to(dtype), torch.cat([block.s2_bias, block.t2_bias]),
        torch.cat([block.s3, block.t3]).to(dtype), torch.cat([block.s3_bias, block.t3_bias]),
    )  # fmt: skip


def _pass_on(pending: Tensor, rows: Tensor, affine: Tensor, written: Tensor) -> Tensor:
    """What is pending after a block: for `rows`, which it only reads, its affine too; for `written` nothing."""
    after = pending.clone()
    rows, written = rows.long(), written.long()
    after[rows] = torch.stack([pending[rows, 0] * affine[:, 0], pending[rows, 1] * affine[:, 0] + affine[:, 1]], dim=1)
    after[written, 0], after[written, 1] = 1.0, 0.0
    return after


def _unpack(plan: Plan, packed: Sequence[Tensor]) -> tuple[Ends, list[BaseWeights], list[TaskWeights]]:
    tensors = iter(packed)
    ends = Ends(*islice(tensors, len(Ends._fields)))
    base = [BaseWeights(*islice(tensors, len(BaseWeights._fields))) for _ in plan.kernels]
    return ends, base, [TaskWeights(*islice(tensors, len(TaskWeights._fields))) for _ in plan.task_blocks]
