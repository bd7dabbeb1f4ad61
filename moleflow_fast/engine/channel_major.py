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

from moleflow_fast.engine.channel_layout import BaseWeights, Rows, TaskWeights, unpack
from moleflow_fast.engine.flat_gradients import FlatGradients
from moleflow_fast.engine.plan import Plan
from moleflow_fast.engine.streams import Beside
from moleflow_fast.kernels import channel_major, row_stride, ways
from moleflow_fast.kernels.coupling import coupling_backward, coupling_product, logdet_tiles
from moleflow_fast.kernels.products import relu_gradient_product, relu_product
from moleflow_fast.kernels.rows import gather_rows, scatter_gradient, taps_gradient
from moleflow_fast.kernels.transpose import enter, leave
from moleflow_fast.ops.coupling import Clamping, base_clamping, task_clamping

Grid = tuple[int, int, int]  # images, H, W


class BaseKept(NamedTuple):
    """What a base block leaves for its backward pass, channel-major, in the operands' dtype."""

    operand: Tensor  # the driving half, and its context below it
    hidden: Tensor  # after the ReLU, the scale network's first
    outputs: Tensor  # s and, below it, the driven half as it was


class TaskKept(NamedTuple):
    """The same of a coupling of the task flow."""

    operand: Tensor
    first: Tensor
    middle: Tensor
    outputs: Tensor


class Forward(NamedTuple):
    """What the blocks leave of tokens that went through all of them."""

    state: Tensor  # (D, N), rows where `Ends.exit` says, with scales and offsets pending
    logdet_tiles: Tensor  # (tiles, N): their sum is the log-determinant without the constant of the global scales
    saved: list[Tensor]  # what backward needs, where there is to be one


def forward(
    plan: Plan, packed: Sequence[Tensor], x: Tensor, keep: bool, tasks: Tensor | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """z (B, H, W, D), logdet (B, H, W) and, with `keep`, what backward needs, of x (B, H, W, D) fp32; see `blocks`."""
    ends, *_ = unpack(plan, packed)
    state, tiles, saved = blocks(plan, packed, x, keep, tasks)
    z = leave(state, ends.exit, ends.pending, x.new_empty(state.shape[1], plan.channels))
    return z.view(x.shape), tiles.sum(0).view(x.shape[:-1]), saved


def backward(
    plan: Plan, packed: Sequence[Tensor], params: Sequence[Tensor], saved: Sequence[Tensor], dz: Tensor,
    dlogdet: Tensor,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """`blocks_backward` for gradients of z (B, H, W, D) and logdet (B, H, W); those of `params` are one flat tensor."""
    ends, *_ = unpack(plan, packed)
    dz, dlogdet = dz.contiguous(), dlogdet.contiguous().flatten()  # gradients of a sum are expanded numbers
    rows = dz.view(-1, plan.channels)
    grad = enter(rows, ends.exit, channel_major(plan.channels, len(rows), dz))
    dx, flat = blocks_backward(plan, packed, params, saved, grad, dlogdet, grid_of(dz))
    return dx, [flat]


def blocks(plan: Plan, packed: Sequence[Tensor], x: Tensor, keep: bool, tasks: Tensor | None = None) -> Forward:
    """The state after all blocks, of x (B, H, W, D) fp32.

    Args:
        tasks: (B,) int32, for `packed` of several tasks (`channel_layout.stack`): which of them each image takes.
    """
    ends, base, own = unpack(plan, packed)
    rows = x.contiguous().view(-1, plan.channels)
    grid, tokens = grid_of(x), len(rows)
    state = enter(rows, ends.entry, channel_major(plan.channels, tokens, x))
    driven = [block.second.shape[-2] // 2 for _, block in base] + [block.last.shape[-2] // 2 for _, block in own]
    tiles = [logdet_tiles(count, tokens, plan.operand_dtype) for count in driven]
    logdet = channel_major(sum(tiles), tokens, x)
    parts = iter(logdet.split(tiles) if tiles else ())
    saved = saved_like(plan, x) if keep else []
    base_kept, own_kept = _taken_apart(plan, saved if keep else _reused(plan, x))
    for (at, block), kept in zip(base, base_kept, strict=True):
        _base_forward(plan, at, block, kept, state, next(parts), grid, keep, tasks)
    for index, ((at, coupling), own_one) in enumerate(zip(own, own_kept, strict=True)):
        _task_forward(plan, index, at, coupling, own_one, state, next(parts), grid, keep, tasks)
    return Forward(state, logdet, saved)


def blocks_backward(
    plan: Plan, packed: Sequence[Tensor], params: Sequence[Tensor], saved: Sequence[Tensor], grad: Tensor,
    dlogdet: Tensor, grid: Grid,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of x (B, H, W, D), and of `params` as `slots.split` takes them apart.

    Args:
        grad: gradient of z in the rows of the state (D, N), which is overwritten, as kept outputs are by theirs.
        dlogdet: (N,).
    """
    tokens = grad.shape[1]
    # Kernels read up to the end of the padding, which must then be there.
    padded = (tensor.shape[-2] == 1 or tensor.stride(-2) == row_stride(tokens) for tensor in saved)
    assert all(padded), "saved rows have lost their padding"
    ends, base, own = unpack(plan, packed)
    named = dict(zip(plan.slots, params, strict=True))
    gradients = FlatGradients(plan, named, tokens, dlogdet, factored=_factored(plan, dlogdet, tokens))
    beside = Beside(grad.device, apart=_in_two_streams(plan, grad))
    base_kept, own_kept = _taken_apart(plan, saved)
    for index in reversed(range(len(own))):
        _task_backward(plan, index, *own[index], own_kept[index], grad, dlogdet, gradients, grid, beside)
    for index in reversed(range(len(base))):
        _base_backward(plan, index, *base[index], base_kept[index], grad, dlogdet, gradients, grid, beside)
    slabs, _ = _slabs(plan, saved)
    if slabs is not None:
        beside.run(lambda: _last_layers(plan, slabs, gradients))
    dx = leave(grad, ends.entry, None, grad.new_empty(tokens, plan.channels))
    beside.join()
    return dx.view(*grid, plan.channels), gradients.finish()


def grid_of(x: Tensor) -> Grid:
    images, height, width, _ = x.shape
    return images, height, width


def saved_like(plan: Plan, x: Tensor) -> list[Tensor]:
    """Uninitialised tensors of the shapes, strides and dtypes that `forward` keeps.

    Those of all base blocks stand together, (blocks, rows, N): products over all blocks take them as they are.
    """
    tokens, blocks = x.shape[0] * x.shape[1] * x.shape[2], len(plan.kernels)
    shapes = [(blocks, rows) for rows in _base_rows(plan)] if blocks else []
    shapes += [(1, rows) for block in range(len(plan.task_blocks)) for rows in _task_rows(plan, block)]
    return [
        channel_major(count * rows, tokens, x, plan.operand_dtype).unflatten(0, (count, rows)) for count, rows in shapes
    ]


def _reused(plan: Plan, x: Tensor) -> list[Tensor]:
    """The same for one block after the other, without what only a backward pass reads."""
    tokens = x.shape[0] * x.shape[1] * x.shape[2]

    def room(rows: Sequence[int]) -> list[Tensor]:
        return [channel_major(count, tokens, x, plan.operand_dtype) for count in rows]

    base = [*room(_base_rows(plan)[:-1]), x.new_empty(0)] if plan.kernels else []
    saved = [tensor.expand(len(plan.kernels), *tensor.shape) for tensor in base]
    known: dict[tuple[int, ...], list[Tensor]] = {}
    for index in range(len(plan.task_blocks)):
        rows = _task_rows(plan, index)[:-1]
        saved += [tensor[None] for tensor in (*known.setdefault(rows, room(rows)), x.new_empty(0))]
    return saved


def _base_rows(plan: Plan) -> tuple[int, ...]:
    """Of the tensors of `BaseKept`."""
    return plan.split * (2 if plan.context else 1), plan.hidden, 2 * (plan.channels - plan.split)


def _task_rows(plan: Plan, index: int) -> tuple[int, ...]:
    """Of the tensors of `TaskKept`."""
    block = plan.task_blocks[index]
    driver, driven = (half.stop - half.start for half in plan.halves(block))
    return driver, 2 * block.hidden, 2 * block.hidden, 2 * driven


def _slabs(plan: Plan, saved: Sequence[Tensor]) -> tuple[BaseKept | None, list[TaskKept]]:
    """What was kept, (blocks, rows, N) each: of all base blocks, if there are any, and of each coupling."""
    tensors = iter(saved)
    base = BaseKept(*islice(tensors, len(BaseKept._fields))) if plan.kernels else None
    return base, [TaskKept(*islice(tensors, len(TaskKept._fields))) for _ in plan.task_blocks]


def _taken_apart(plan: Plan, saved: Sequence[Tensor]) -> tuple[list[BaseKept], list[TaskKept]]:
    """What each base block and each coupling of the task flow kept, (rows, N) each."""
    base, own = _slabs(plan, saved)
    blocks = [] if base is None else [BaseKept(*block) for block in zip(*base, strict=True)]
    return blocks, [TaskKept(*(slab[0] for slab in slabs)) for slabs in own]


def _factored(plan: Plan, like: Tensor, tokens: int) -> bool:
    """Whether LoRA gradients come from products of rank r, which are fewer multiply-adds and run at lower rates."""
    shape = ways.Shape(1, 2 * plan.split, plan.split * (2 if plan.context else 1), tokens)
    return ways.choose("lora_gradients", shape, ways.precision_name(plan.operand_dtype), like.device).name == "factored"


def _in_two_streams(plan: Plan, grad: Tensor) -> bool:
    """Whether weight gradients are formed beside the input gradients that the next block waits for."""
    shape = ways.Shape(1, plan.channels, plan.channels, grad.shape[1])
    precision = ways.precision_name(plan.operand_dtype)
    return ways.choose("weight_gradients", shape, precision, grad.device).name == "beside"


def _base_forward(
    plan: Plan, at: Rows, block: BaseWeights, kept: BaseKept, state: Tensor, logdet: Tensor, grid: Grid, keep: bool,
    tasks: Tensor | None,
) -> None:  # fmt: skip
    split = plan.split
    context = (block.taps, block.taps_bias) if plan.context else None
    outputs = _halves(kept.outputs) if keep else None
    gather_rows(state, at.rows[:split], at.pending, kept.operand, context, grid)
    inner = (2 * split, split) if plan.context else None
    relu_product(block.first, block.first_bias, kept.operand, kept.hidden, inner, tasks=tasks)
    coupling_product(
        block.second, block.second_bias, _both(kept.hidden, block.second.shape[-1]), state, at.rows[split:],
        at.pending, at.affine[split:], logdet, base_clamping(plan.clamp), outputs, tasks,
    )  # fmt: skip


def _base_backward(
    plan: Plan, index: int, at: Rows, block: BaseWeights, kept: BaseKept, grad: Tensor, dlogdet: Tensor,
    gradients: FlatGradients, grid: Grid, beside: Beside,
) -> None:  # fmt: skip
    split, units, name = plan.split, block.second.shape[1], f"flow.{index}"
    networks = "st" if plan.context else "s"
    if gradients.wants(f"{name}.scale"):
        _global_affine_gradients(plan, name, at, block, kept, grad, gradients)
    _coupling_backward(
        [f"{name}.{n}2" for n in networks], kept.outputs, grad, at.rows[split:], at.affine[split:], dlogdet,
        base_clamping(plan.clamp), gradients,
    )  # fmt: skip
    first = [f"{name}.{n}1" for n in networks]
    dh = _hidden_gradient(first, block.second, kept.outputs, kept.hidden, len(networks), gradients)
    inputs = (2 * split, split) if plan.context else (split,)
    beside.run(lambda: gradients.first_layers(first, dh, kept.operand, inputs))
    dx = _like(kept.operand)
    torch.mm(block.first[:, :split].t(), dh, out=dx[:split])
    if plan.context:
        torch.mm(block.first[:units, split:].t(), dh[:units], out=dx[split:])
        if gradients.wants(f"{name}.taps"):
            out = gradients.place(f"{name}.taps"), gradients.place(f"{name}.taps_bias")
            taps_gradient(kept.operand[:split], dx[split:], plan.kernels[index], grid, out)
    scatter_gradient(dx, at.rows[:split], at.affine[:split], block.taps if plan.context else None, grad, grid)
    beside.join()


def _last_layers(plan: Plan, slabs: BaseKept, gradients: FlatGradients) -> None:
    """Weight gradients of the last layers of all base blocks, in one batch of products.

    One block alone does not fill a GPU: two of (384, 768) take 51 us for 12,544 tokens in bf16 on an H200.
    """
    networks = "st" if plan.context else "s"
    names = [f"flow.{index}.{n}2" for index in range(len(plan.kernels)) for n in networks]
    # (blocks, rows, N), the rows of one network below the other's
    gradients.layers(names, _by_network(slabs.outputs, len(networks)), _by_network(slabs.hidden, len(networks)))


def _by_network(slab: Tensor, networks: int) -> Tensor:
    """(blocks, networks * rows, N) -> (blocks * networks, rows, N), a view."""
    return slab.unflatten(1, (networks, -1)).flatten(0, 1)


def _coupling_backward(
    layers: Sequence[str], outputs: Tensor, grad: Tensor, rows: Tensor, affine: Tensor, dlogdet: Tensor,
    clamping: Clamping, gradients: FlatGradients,
) -> None:  # fmt: skip
    """Rows `rows` of `grad` become the gradient of what a coupling was given, `outputs` that of s and t."""
    tiles = coupling_backward(
        *_halves(outputs), grad, rows, affine, dlogdet, outputs, clamping, gradients.partial_sums(len(outputs))
    )
    gradients.summed(layers, len(outputs), tiles)


def _hidden_gradient(
    layers: Sequence[str], weight: Tensor, dout: Tensor, hidden: Tensor, networks: int, gradients: FlatGradients
) -> Tensor:
    """Gradient before the ReLU that gave `hidden`, of the layers before it, for that of the layers after it."""
    dh = _like(hidden)
    tiles = relu_gradient_product(weight, dout, hidden, dh, networks, gradients.partial_sums(len(hidden)))
    gradients.summed(layers, len(hidden), tiles)
    return dh


def _global_affine_gradients(
    plan: Plan, name: str, at: Rows, block: BaseWeights, kept: BaseKept, grad: Tensor, gradients: FlatGradients
) -> None:
    """Scale and offset train in a task's own flow alone, so the shift is computed again rather than kept."""
    s, x2 = (half.float() for half in _halves(kept.outputs))
    half, (clamp, s_factor, t_factor) = s.shape[0], base_clamping(plan.clamp)
    _, own = _both(kept.hidden, block.second.shape[1])
    t = (block.second[half:] @ own).float() + block.second_bias[half:, None]
    driven = x2 * torch.exp(clamp * torch.tanh(s_factor * s)) + t_factor * t
    before = grad[at.rows.long()]
    mapped = torch.cat([kept.operand[: plan.split].float(), driven])
    torch.sum(before * mapped, 1, out=gradients.place(f"{name}.scale"))
    torch.sum(before, 1, out=gradients.place(f"{name}.offset"))


def _task_forward(
    plan: Plan, index: int, at: Rows, block: TaskWeights, kept: TaskKept, state: Tensor, logdet: Tensor, grid: Grid,
    keep: bool, tasks: Tensor | None,
) -> None:  # fmt: skip
    units, driver = plan.task_blocks[index].hidden, block.first.shape[-1]
    gather_rows(state, at.rows[:driver], at.pending, kept.operand, None, grid)
    relu_product(block.first, block.first_bias, kept.operand, kept.first, tasks=tasks)
    relu_product(block.middle, block.middle_bias, kept.first, kept.middle, (units, units), first_row=units, tasks=tasks)
    coupling_product(
        block.last, block.last_bias, _both(kept.middle, units), state, at.rows[driver:], at.pending,
        at.affine[driver:], logdet, task_clamping(plan.clamp), _halves(kept.outputs) if keep else None, tasks,
    )  # fmt: skip


def _task_backward(
    plan: Plan, index: int, at: Rows, block: TaskWeights, kept: TaskKept, grad: Tensor, dlogdet: Tensor,
    gradients: FlatGradients, grid: Grid, beside: Beside,
) -> None:  # fmt: skip
    operand, first, middle, outputs = kept
    driver = operand.shape[0]
    last_names, middle_names, first_names = ([f"dia.{index}.{n}{layer}" for n in "st"] for layer in (3, 2, 1))
    _coupling_backward(
        last_names, outputs, grad, at.rows[driver:], at.affine[driver:], dlogdet, task_clamping(plan.clamp), gradients
    )
    beside.run(lambda: gradients.layers(last_names, _pair(outputs), _pair(middle)))
    dmiddle = _hidden_gradient(middle_names, block.last, outputs, middle, 2, gradients)
    beside.run(lambda: gradients.layers(middle_names, _pair(dmiddle), _pair(first)))
    dfirst = _hidden_gradient(first_names, block.middle, dmiddle, first, 2, gradients)
    beside.run(lambda: gradients.layers(first_names, _pair(dfirst), operand))
    dx = torch.mm(block.first.t(), dfirst, out=_like(operand))
    scatter_gradient(dx, at.rows[:driver], at.affine[:driver], None, grad, grid)
    beside.join()


def _pair(rows: Tensor) -> Tensor:
    """(2 n, N) -> (2, n, N), a view."""
    return rows.unflatten(0, (2, -1))


def _halves(outputs: Tensor) -> tuple[Tensor, Tensor]:
    half = len(outputs) // 2
    return outputs[:half], outputs[half:]


def _like(tensor: Tensor) -> Tensor:
    """Uninitialised, with room for as many tokens a row; `empty_like` would pack the rows."""
    return channel_major(tensor.shape[0], tensor.shape[1], tensor)


def _both(hidden: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """Hidden layers of the scale and the shift network, which are one where there is no context."""
    return hidden[:units], hidden[-units:]
