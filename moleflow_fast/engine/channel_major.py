"""The whole flow of a task on a GPU: Triton kernels on channel-major tokens, the batch in one piece.

Permutations are row indices fixed when the flow is packed, so nothing is ever permuted: the state (D, N) keeps its
rows where they are, and a block reads and writes the rows that its halves have come to. Scales and offsets of rows
that a block passes on are pending until a later block reads them. See `kernels` for the layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moleflow_fast.engine.channel_packing import BaseWeights, Rows, TaskWeights, unpack
from moleflow_fast.engine.gradients import Gradients
from moleflow_fast.engine.plan import Plan
from moleflow_fast.kernels import channel_major, row_stride
from moleflow_fast.kernels.coupling import coupling_backward, coupling_product, logdet_tiles
from moleflow_fast.kernels.products import relu_gradient_product, relu_product, sum_tiles
from moleflow_fast.kernels.rows import gather_rows, scatter_gradient, taps_gradient
from moleflow_fast.kernels.transpose import enter, leave
from moleflow_fast.ops.coupling import base_clamping, task_clamping

Grid = tuple[int, int, int]  # images, H, W


def forward(
    plan: Plan, packed: Sequence[Tensor], x: Tensor, keep: bool, tasks: Tensor | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """z (B, H, W, D), logdet (B, H, W) and, with `keep`, what backward needs, of x (B, H, W, D) fp32.

    Args:
        tasks: (B,) int32, for `packed` of several tasks (`channel_packing.stack`): which of them each image takes.
    """
    images, height, width, channels = x.shape
    tokens = images * height * width
    ends, base, own = unpack(plan, packed)
    x = x.contiguous()
    state = enter(x.view(tokens, channels), ends.entry, channel_major(channels, tokens, x))
    driven = [block.second.shape[-2] // 2 for _, block in base] + [block.last.shape[-2] // 2 for _, block in own]
    tiles = [logdet_tiles(rows, tokens, plan.operand_dtype) for rows in driven]
    logdet = channel_major(sum(tiles), tokens, x)
    parts = iter(logdet.split(tiles) if tiles else ())
    saved: list[Tensor] = []
    for kernel, (at, block) in zip(plan.kernels, base, strict=True):
        saved += _base_forward(plan, kernel, at, block, state, next(parts), (images, height, width), keep, tasks)
    for index, (at, coupling) in enumerate(own):
        saved += _task_forward(plan, index, at, coupling, state, next(parts), (images, height, width), keep, tasks)
    z = leave(state, ends.exit, ends.pending, x.new_empty(tokens, channels))
    return z.view(x.shape), logdet.sum(0).view(x.shape[:-1]), saved


def backward(
    plan: Plan, packed: Sequence[Tensor], params: Sequence[Tensor], saved: Sequence[Tensor], dz: Tensor,
    dlogdet: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x (B, H, W, D), then of each of `params`."""
    images, height, width, channels = dz.shape
    grid, tokens = (images, height, width), images * height * width
    # Kernels read up to the end of the padding, which must then be there.
    assert all(tensor.stride(0) == row_stride(tokens) for tensor in saved), "saved rows have lost their padding"
    ends, base, own = unpack(plan, packed)
    gradients = Gradients(dict(zip(plan.slots, params, strict=True)), plan.scaling)
    dz, dlogdet = dz.contiguous(), dlogdet.contiguous().view(tokens)  # gradients of a sum are expanded numbers
    grad = enter(dz.view(tokens, channels), ends.exit, channel_major(channels, tokens, dz))
    kept = list(saved)
    for index in reversed(range(len(own))):
        kept, mine = kept[:-5], kept[-5:]
        _task_backward(plan, index, *own[index], mine, grad, dlogdet, gradients, grid)
    for index in reversed(range(len(base))):
        kept, mine = kept[:-4], kept[-4:]
        _base_backward(plan, index, *base[index], mine, grad, dlogdet, gradients, grid)
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
    plan: Plan, kernel: int, at: Rows, block: BaseWeights, state: Tensor, logdet: Tensor, grid: Grid, keep: bool,
    tasks: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    split, tokens, dtype = plan.split, state.shape[1], plan.operand_dtype
    operand = channel_major(split * (2 if kernel else 1), tokens, state, dtype)
    context = (block.taps, block.taps_bias) if kernel else None
    gather_rows(state, at.rows[:split], at.pending, operand, context, grid)
    hidden = channel_major(block.first.shape[-2], tokens, state, dtype)
    inner = (2 * split, split) if kernel else None
    relu_product(block.first, block.first_bias, operand, hidden, inner, tasks=tasks)
    kept = _kept(state, plan.channels - split) if keep else None
    coupling_product(
        block.second, block.second_bias, _both(hidden, block.second.shape[-1]), state, at.rows[split:], at.pending,
        at.affine[split:], logdet, base_clamping(plan.clamp), kept, tasks,
    )  # fmt: skip
    return [operand, hidden, *kept] if kept else []


def _base_backward(
    plan: Plan, index: int, at: Rows, block: BaseWeights, kept: list[Tensor], grad: Tensor, dlogdet: Tensor,
    gradients: Gradients, grid: Grid,
) -> None:  # fmt: skip
    operand, hidden, s, x2 = kept
    split, half, kernel = plan.split, s.shape[0], plan.kernels[index]
    tokens, units, name = s.shape[1], block.second.shape[1], f"flow.{index}"
    if gradients.wants(f"{name}.scale") or gradients.wants(f"{name}.offset"):
        _global_affine_gradients(plan, name, at, block, kept, grad, gradients)
    dout = channel_major(2 * half, tokens, s, plan.operand_dtype)
    room, hidden_room = _sums(dout), _sums(hidden)
    written = coupling_backward(
        s, x2, grad, at.rows[split:], at.affine[split:], dlogdet, dout, base_clamping(plan.clamp), room
    )
    sums = room[:written].sum(0)
    dh = _like(hidden)
    networks = 2 if kernel else 1
    written = relu_gradient_product(block.second, dout, hidden, dh, networks, hidden_room)
    hidden_sums = hidden_room[:written].sum(0)
    if kernel:
        _take(gradients, name, "st", 2, hidden, dout, sums)
        inputs = (operand, operand[:split])
        _take(gradients, name, "st", 1, inputs, dh, hidden_sums)
    else:
        _take(gradients, name, "s", 2, (hidden,), dout, sums)
        _take(gradients, name, "s", 1, (operand,), dh, hidden_sums)
    dx = _like(operand)
    torch.mm(block.first[:, :split].t(), dh, out=dx[:split])
    if kernel:
        torch.mm(block.first[:units, split:].t(), dh[:units], out=dx[split:])
        if gradients.wants(f"{name}.taps"):
            dtaps, dbias = taps_gradient(operand[:split], dx[split:], kernel, grid)
            gradients.add(f"{name}.taps", dtaps)
            gradients.add(f"{name}.taps_bias", dbias)
    taps = block.taps if kernel else None
    scatter_gradient(dx, at.rows[:split], at.affine[:split], taps, grad, grid)


def _global_affine_gradients(
    plan: Plan, name: str, at: Rows, block: BaseWeights, kept: list[Tensor], grad: Tensor, gradients: Gradients
) -> None:
    """Scale and offset train in a task's own flow alone, so the shift is computed again rather than kept."""
    operand, hidden, s, x2 = kept
    half, (clamp, s_factor, t_factor) = s.shape[0], base_clamping(plan.clamp)
    _, own = _both(hidden, block.second.shape[1])
    t = (block.second[half:] @ own).float() + block.second_bias[half:, None]
    driven = x2 * torch.exp(clamp * torch.tanh(s_factor * s)) + t_factor * t
    before = grad[at.rows.long()]
    gradients.add(f"{name}.scale", (before * torch.cat([operand[: plan.split].float(), driven])).sum(1))
    gradients.add(f"{name}.offset", before.sum(1))


def _task_forward(
    plan: Plan, index: int, at: Rows, block: TaskWeights, state: Tensor, logdet: Tensor, grid: Grid, keep: bool,
    tasks: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    tokens, dtype, units = state.shape[1], plan.operand_dtype, plan.task_blocks[index].hidden
    driver = block.first.shape[-1]
    operand = channel_major(driver, tokens, state, dtype)
    gather_rows(state, at.rows[:driver], at.pending, operand, None, grid)
    first, middle = (channel_major(2 * units, tokens, state, dtype) for _ in range(2))
    relu_product(block.first, block.first_bias, operand, first, tasks=tasks)
    relu_product(block.middle, block.middle_bias, first, middle, (units, units), first_row=units, tasks=tasks)
    kept = _kept(state, plan.channels - driver) if keep else None
    coupling_product(
        block.last, block.last_bias, _both(middle, units), state, at.rows[driver:], at.pending,
        at.affine[driver:], logdet, task_clamping(plan.clamp), kept, tasks,
    )  # fmt: skip
    return [operand, first, middle, *kept] if kept else []


def _task_backward(
    plan: Plan, index: int, at: Rows, block: TaskWeights, kept: list[Tensor], grad: Tensor, dlogdet: Tensor,
    gradients: Gradients, grid: Grid,
) -> None:  # fmt: skip
    operand, first, middle, s, x2 = kept
    driver, name = operand.shape[0], f"dia.{index}"
    dout = channel_major(2 * s.shape[0], s.shape[1], s, plan.operand_dtype)
    room = _sums(dout)
    written = coupling_backward(
        s, x2, grad, at.rows[driver:], at.affine[driver:], dlogdet, dout, task_clamping(plan.clamp), room
    )
    _take(gradients, name, "st", 3, middle, dout, room[:written].sum(0))
    dmiddle, dfirst, room = _like(middle), _like(first), _sums(middle)
    written = relu_gradient_product(block.last, dout, middle, dmiddle, 2, room)
    _take(gradients, name, "st", 2, first, dmiddle, room[:written].sum(0))
    written = relu_gradient_product(block.middle, dmiddle, first, dfirst, 2, room)
    _take(gradients, name, "st", 1, (operand, operand), dfirst, room[:written].sum(0))
    dx = torch.mm(block.first.t(), dfirst, out=_like(operand))
    scatter_gradient(dx, at.rows[:driver], at.affine[:driver], None, grad, grid)


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


def _like(tensor: Tensor) -> Tensor:
    """Uninitialised, with room for as many tokens a row; `empty_like` would pack the rows."""
    return channel_major(tensor.shape[0], tensor.shape[1], tensor)


def _sums(tensor: Tensor) -> Tensor:
    """Room for partial sums over the tokens of each row."""
    return tensor.new_empty(sum_tiles(tensor.shape[1]), tensor.shape[0], dtype=torch.float32)


def _both(hidden: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """Hidden layers of the scale and the shift network, which are one where there is no context."""
    return hidden[:units], hidden[-units:]
