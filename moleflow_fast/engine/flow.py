"""The whole flow of a task, base blocks and task flow, as one operator with a backward.

Tokens go through in chunks of whole images, so that intermediates stay in cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.engine import base_block, task_block
from moleflow_fast.engine.base_block import BaseBlock
from moleflow_fast.engine.buffers import Buffers
from moleflow_fast.engine.gradients import Gradients
from moleflow_fast.engine.plan import Plan, parse
from moleflow_fast.engine.task_block import TaskCoupling


@torch.library.custom_op("moleflow::flow", mutates_args=())
def flow(
    x: Tensor, packed: Sequence[Tensor], params: Sequence[Tensor], plan: str, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """z (B, H, W, D) and logdet (B, H, W) without the constant of the global scales, of x (B, H, W, D).

    Args:
        packed: what the kernels read, see `packing`.
        params: the tensors that get gradients, in the order of the plan's slots.
        plan: the structure, see `plan`.
        keep: keep what backward needs, in the third result.
    """
    structure = parse(plan)
    if structure.engine == "channel_major":
        return _channel_major().forward(structure, packed, x, keep)
    base, own = _unpack(structure, packed)
    images, height, width, channels = x.shape
    tokens = height * width
    x = x.contiguous()
    z, logdet = torch.empty_like(x), x.new_zeros(images, height, width)
    saved: list[Tensor] = []
    buffers = Buffers(x, 0, keep)
    for start, end in structure.chunks(images, tokens, keep):
        grid = (end - start, height, width)
        rows, result = x[start:end].view(-1, channels), z[start:end].view(-1, channels)
        buffers = buffers if buffers.rows == rows.shape[0] else Buffers(x, rows.shape[0], keep)
        saved += _forward_chunk(structure, base, own, rows, result, logdet[start:end].view(-1), grid, buffers)
    return z, logdet, saved


@flow.register_fake
def _(
    x: Tensor, packed: Sequence[Tensor], params: Sequence[Tensor], plan: str, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    structure = parse(plan)
    images, height, width, _ = x.shape
    if structure.engine == "channel_major":
        kept = _channel_major().saved_like(structure, x) if keep else []
        return x.new_empty(x.shape), x.new_empty(images, height, width), kept
    saved = [
        x.new_empty((end - start) * height * width, columns)
        for start, end in structure.chunks(images, height * width, keep)
        for columns in structure.saved_widths()
        if keep
    ]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(images, height, width), saved


@torch.library.custom_op("moleflow::flow_backward", mutates_args=())
def flow_backward(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> list[Tensor]:
    """Gradients of `flow` on a CPU: of x (B, H, W, D), then of each of `params`."""
    structure = parse(plan)
    base, own = _unpack(structure, packed)
    images, height, width, channels = dz.shape
    gradients = Gradients(dict(zip(structure.slots, params, strict=True)), structure.scaling)
    dx = torch.empty_like(dz, memory_format=torch.contiguous_format).copy_(dz)
    dlogdet = dlogdet.contiguous()
    kept = iter(saved)
    per_chunk = len(structure.saved_widths())
    buffers = Buffers(dx, 0, keep=False)
    for start, end in structure.chunks(images, height * width, training=True):
        grid = (end - start, height, width)
        rows = dx[start:end].view(-1, channels)
        buffers = buffers if buffers.rows == rows.shape[0] else Buffers(dx, rows.shape[0], keep=False)
        mine = list(islice(kept, per_chunk))
        _backward_chunk(structure, base, own, mine, rows, dlogdet[start:end].view(-1), grid, gradients, buffers)
    return [dx, *gradients.in_order(structure.slots, dx)]


@flow_backward.register_fake
def _(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> list[Tensor]:
    dx = torch.empty_like(dz, memory_format=torch.contiguous_format)
    return [dx, *[p.new_empty(p.shape) for p in params]]


@torch.library.custom_op("moleflow::flow_backward_on_device", mutates_args=("saved",))
def flow_backward_on_device(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> tuple[Tensor, Tensor]:
    """Gradients of `flow` in channel-major kernels: of x (B, H, W, D), and of all `params` in one flat tensor.

    It overwrites what `flow` saved, so a graph can be gone back through once.
    """
    return _channel_major().backward(parse(plan), packed, params, saved, dz, dlogdet)


@flow_backward_on_device.register_fake
def _(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dz, memory_format=torch.contiguous_format), dz.new_empty(sum(p.numel() for p in params))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    _, packed, params, plan, keep = inputs
    if not keep:
        raise RuntimeError("moleflow::flow was run without keep=True, but a gradient is wanted")
    ctx.set_materialize_grads(False)
    ctx.plan, ctx.packed_count = plan, len(packed)
    ctx.save_for_backward(*packed, *params, *output[2])
    ctx.params_count = len(params)
    ctx.shape = output[0].shape


def _backward(ctx: Any, dz: Tensor | None, dlogdet: Tensor | None, dsaved: Any) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    packed, rest = tensors[: ctx.packed_count], tensors[ctx.packed_count :]
    params, saved = rest[: ctx.params_count], rest[ctx.params_count :]
    if dz is None and dlogdet is None:
        return None, [None] * len(packed), [None] * len(params), None, None
    given = dz if dz is not None else dlogdet
    dz = given.new_zeros(ctx.shape) if dz is None else dz  # type: ignore[union-attr]
    dlogdet = given.new_zeros(ctx.shape[:-1]) if dlogdet is None else dlogdet  # type: ignore[union-attr]
    if parse(ctx.plan).engine == "cpu":
        dx, *gradients = flow_backward(dz, dlogdet, saved, packed, params, ctx.plan)
    else:
        dx, flat = flow_backward_on_device(dz, dlogdet, saved, packed, params, ctx.plan)
        gradients = _split_gradients(parse(ctx.plan), flat, params)
    return dx, [None] * len(packed), list(gradients), None, None


flow.register_autograd(_backward, setup_context=_setup_context)


def _channel_major() -> ModuleType:
    """Imported at its first use: it needs Triton, which a CPU does not."""
    from moleflow_fast.engine import channel_major

    return channel_major


def _split_gradients(plan: Plan, flat: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    from moleflow_fast.engine.flat_gradients import split  # as above

    return split(plan, flat, params)


def _unpack(plan: Plan, packed: Sequence[Tensor]) -> tuple[list[BaseBlock], list[TaskCoupling]]:
    tensors = iter(packed)
    base = [BaseBlock(*islice(tensors, len(BaseBlock._fields))) for _ in plan.kernels]
    own = [TaskCoupling(*islice(tensors, len(TaskCoupling._fields))) for _ in plan.task_blocks]
    return base, own


def _forward_chunk(
    plan: Plan, base: list[BaseBlock], own: list[TaskCoupling], x: Tensor, z: Tensor, logdet: Tensor,
    grid: tuple[int, int, int], buffers: Buffers,
) -> list[Tensor]:  # fmt: skip
    """x (n, D) -> z (n, D); where there is to be a backward, the input of each block followed by what it kept."""
    saved: list[Tensor] = []
    keep = buffers.keep
    state = x
    if base:
        state = buffers.kept("state", plan.channels + plan.gap(0))
        _spread(plan, x, state, plan.gap(0))
    for index, block in enumerate(base):
        last = index + 1 == len(base)
        gap = plan.gap(index + 1)
        if last:
            out = z if not keep or not own else torch.empty_like(z)
        else:
            out = buffers.kept("state", plan.channels + gap)
        kept = base_block.forward(block, plan, index, state, out, gap, logdet, grid, buffers)
        if keep:
            saved += [state, *kept]
        state = out
    for index, coupling in enumerate(own):
        last = index + 1 == len(own)
        out = z if not keep or last else torch.empty_like(z)
        kept = task_block.forward(coupling, plan, index, state, out, logdet, buffers)
        if keep:
            # The operator's results may not share memory with its input.
            saved += [state.clone() if state is x else state, *kept]
        state = out
    if state is x:
        z.copy_(x)
    return saved


def _backward_chunk(
    plan: Plan, base: list[BaseBlock], own: list[TaskCoupling], saved: list[Tensor], dy: Tensor, dlogdet: Tensor,
    grid: tuple[int, int, int], gradients: Gradients, buffers: Buffers,
) -> None:  # fmt: skip
    """dy (n, D), the gradient of z, becomes that of x in place."""
    for index in reversed(range(len(own))):
        x, *kept = saved[-5:]
        del saved[-5:]
        task_block.backward(own[index], plan, index, x, kept, dy, dlogdet, gradients, buffers)
    for index in reversed(range(len(base))):
        count = 4 if plan.kernels[index] else 3
        x, *kept = saved[-count:]
        del saved[-count:]
        base_block.backward(base[index], plan, index, x, kept, dy, dlogdet, grid, gradients, buffers)


def _spread(plan: Plan, x: Tensor, out: Tensor, gap: int) -> None:
    """Copy x (n, D) to `out` (n, D + gap), leaving `gap` columns between the halves."""
    out[:, : plan.split] = x[:, : plan.split]
    out[:, plan.split + gap :] = x[:, plan.split :]
