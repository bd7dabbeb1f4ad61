"""The flow of a task on a CPU: tokens in chunks of whole images, so that intermediates stay in cache.

See `flow.Engine` for the three functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from moleflow_fast.engine import base_block, task_block
from moleflow_fast.engine.base_block import BaseBlock
from moleflow_fast.engine.buffers import Buffers
from moleflow_fast.engine.gradients import Gradients
from moleflow_fast.engine.plan import Plan
from moleflow_fast.engine.task_block import TaskCoupling


def forward(plan: Plan, packed: Sequence[Tensor], x: Tensor, keep: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """z (B, H, W, D), logdet (B, H, W) and, with `keep`, what backward needs, of x (B, H, W, D)."""
    base, own = _unpack(plan, packed)
    images, height, width, channels = x.shape
    x = x.contiguous()
    z, logdet = torch.empty_like(x), x.new_zeros(images, height, width)
    saved: list[Tensor] = []
    buffers = Buffers(x, 0, keep)
    for start, end in plan.chunks(images, height * width, keep):
        grid = (end - start, height, width)
        rows, result = x[start:end].view(-1, channels), z[start:end].view(-1, channels)
        buffers = buffers if buffers.rows == rows.shape[0] else Buffers(x, rows.shape[0], keep)
        saved += _forward_chunk(plan, base, own, rows, result, logdet[start:end].view(-1), grid, buffers)
    return z, logdet, saved


def backward(
    plan: Plan, packed: Sequence[Tensor], params: Sequence[Tensor], saved: Sequence[Tensor], dz: Tensor,
    dlogdet: Tensor,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Gradients of x (B, H, W, D) and of each of `params`."""
    base, own = _unpack(plan, packed)
    images, height, width, channels = dz.shape
    gradients = Gradients(dict(zip(plan.slots, params, strict=True)), plan.scaling)
    dx = torch.empty_like(dz, memory_format=torch.contiguous_format).copy_(dz)
    dlogdet = dlogdet.contiguous()
    kept = iter(saved)
    buffers = Buffers(dx, 0, keep=False)
    for start, end in plan.chunks(images, height * width, training=True):
        grid = (end - start, height, width)
        rows = dx[start:end].view(-1, channels)
        buffers = buffers if buffers.rows == rows.shape[0] else Buffers(dx, rows.shape[0], keep=False)
        _backward_chunk(plan, base, own, kept, rows, dlogdet[start:end].view(-1), grid, gradients, buffers)
    return dx, gradients.in_order(plan.slots, dx)


def saved_like(plan: Plan, x: Tensor) -> list[Tensor]:
    """Uninitialised tensors of the shapes that `forward` keeps of x (B, H, W, D): those of one chunk after another."""
    images, height, width, _ = x.shape
    widths = [w for index in range(len(plan.kernels)) for w in base_block.kept_widths(plan, index)]
    widths += [w for index in range(len(plan.task_blocks)) for w in task_block.kept_widths(plan, index)]
    chunks = plan.chunks(images, height * width, training=True)
    return [x.new_empty((end - start) * height * width, columns) for start, end in chunks for columns in widths]


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
            saved += kept
        state = out
    for index, coupling in enumerate(own):
        last = index + 1 == len(own)
        out = z if not keep or last else torch.empty_like(z)
        own_kept = task_block.forward(coupling, plan, index, state, out, logdet, buffers)
        if keep:
            # The operator's results may not share memory with its input.
            saved += own_kept._replace(x=x.clone()) if state is x else own_kept
        state = out
    if state is x:
        z.copy_(x)
    return saved


def _backward_chunk(
    plan: Plan, base: list[BaseBlock], own: list[TaskCoupling], saved: Iterator[Tensor], dy: Tensor, dlogdet: Tensor,
    grid: tuple[int, int, int], gradients: Gradients, buffers: Buffers,
) -> None:  # fmt: skip
    """dy (n, D), the gradient of z, becomes that of x in place; what the chunk kept comes next in `saved`."""
    base_kept = [base_block.kept_from(plan, index, saved) for index in range(len(base))]
    own_kept = [task_block.kept_from(saved) for _ in own]
    for index in reversed(range(len(own))):
        task_block.backward(own[index], plan, index, own_kept[index], dy, dlogdet, gradients, buffers)
    for index in reversed(range(len(base))):
        base_block.backward(base[index], plan, index, base_kept[index], dy, dlogdet, grid, gradients, buffers)


def _spread(plan: Plan, x: Tensor, out: Tensor, gap: int) -> None:
    """Copy x (n, D) to `out` (n, D + gap), leaving `gap` columns between the halves."""
    out[:, : plan.split] = x[:, : plan.split]
    out[:, plan.split + gap :] = x[:, plan.split :]
