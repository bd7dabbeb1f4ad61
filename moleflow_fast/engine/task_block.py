"""One coupling of the task flow (DIA) on a chunk of tokens: forward, and backward from what forward kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from moleflow_fast.engine.buffers import Buffers
from moleflow_fast.engine.gradients import Gradients
from moleflow_fast.engine.plan import Plan
from moleflow_fast.ops.coupling import coupling, coupling_backward, task_clamping
from moleflow_fast.ops.linear_relu import linear_relu, relu_backward


class TaskCoupling(NamedTuple):
    """Layers of s_net and t_net. The first ones share their input, so they are one product: rows [s | t]."""

    first: Tensor  # (2 * hidden, driver)
    first_bias: Tensor
    s2: Tensor  # (hidden, hidden)
    s2_bias: Tensor
    t2: Tensor
    t2_bias: Tensor
    s3: Tensor  # (driven, hidden)
    s3_bias: Tensor
    t3: Tensor
    t3_bias: Tensor


class TaskKept(NamedTuple):
    """What a coupling keeps for its backward pass: (n, width) each; hidden layers are those after the ReLU."""

    x: Tensor
    s: Tensor
    first: Tensor
    scale_hidden: Tensor
    shift_hidden: Tensor


def kept_widths(plan: Plan, index: int) -> list[int]:
    """Columns of `TaskKept`, field by field."""
    hidden, (_, driven) = plan.task_blocks[index].hidden, plan.halves(plan.task_blocks[index])
    return [plan.channels, driven.stop - driven.start, 2 * hidden, hidden, hidden]


def kept_from(tensors: Iterator[Tensor]) -> TaskKept:
    """What a coupling kept, of the tensors that come next."""
    return TaskKept(*islice(tensors, len(TaskKept._fields)))


def forward(
    block: TaskCoupling, plan: Plan, index: int, x: Tensor, out: Tensor, logdet: Tensor, buffers: Buffers
) -> TaskKept:
    """Write the coupling's result to `out`, which may be x (both (n, D)); returns what backward needs."""
    driver, driven = plan.halves(plan.task_blocks[index])
    hidden = plan.task_blocks[index].hidden
    width = driven.stop - driven.start
    first = linear_relu(x[:, driver], block.first, block.first_bias, buffers.kept("first", 2 * hidden))
    hs = linear_relu(first[:, :hidden], block.s2, block.s2_bias, buffers.kept("hs", hidden))
    ht = linear_relu(first[:, hidden:], block.t2, block.t2_bias, buffers.kept("ht", hidden))
    s = torch.mm(hs, block.s3.t(), out=buffers.kept("s", width))
    t = torch.mm(ht, block.t3.t(), out=buffers.scratch("t", width))
    coupling(s, t, (block.s3_bias, block.t3_bias), x[:, driven], out[:, driven], logdet, task_clamping(plan.clamp))
    if out.data_ptr() != x.data_ptr():
        out[:, driver] = x[:, driver]
    return TaskKept(x, s, first, hs, ht)


def backward(
    block: TaskCoupling, plan: Plan, index: int, kept: TaskKept, dy: Tensor, dlogdet: Tensor,
    gradients: Gradients, buffers: Buffers,
) -> None:  # fmt: skip
    """dy (n, D) becomes dx in place; parameter gradients go to `gradients`."""
    driver, driven = plan.halves(plan.task_blocks[index])
    hidden = plan.task_blocks[index].hidden
    x, s, first, hs, ht = kept
    width = s.shape[1]
    name = f"dia.{index}"
    ds, dt = buffers.scratch("ds", width), buffers.scratch("dt", width)
    sums = (gradients.vector(f"{name}.s3", width, s), gradients.vector(f"{name}.t3", width, s))
    coupling_backward(s, block.s3_bias, x[:, driven], dy[:, driven], dlogdet, ds, dt, sums, task_clamping(plan.clamp))
    dfirst = buffers.scratch("first", 2 * hidden)
    for net, dout, h, part in (("s", ds, hs, slice(0, hidden)), ("t", dt, ht, slice(hidden, 2 * hidden))):
        second, third = getattr(block, f"{net}2"), getattr(block, f"{net}3")
        gradients.linear(f"{name}.{net}3", h, dout)
        dh = torch.mm(dout, third, out=buffers.scratch("hidden", hidden))
        relu_backward(dh, h, gradients.vector(f"{name}.{net}2", hidden, s))
        gradients.linear(f"{name}.{net}2", first[:, part], dh)
        torch.mm(dh, second, out=dfirst[:, part])
        relu_backward(dfirst[:, part], first[:, part], gradients.vector(f"{name}.{net}1", hidden, s))
        gradients.linear(f"{name}.{net}1", x[:, driver], dfirst[:, part])
    torch.addmm(dy[:, driver], dfirst, block.first, out=dy[:, driver])
