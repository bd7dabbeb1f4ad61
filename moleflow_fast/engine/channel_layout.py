"""What the channel-major engine reads of a packed flow: a sequence of tensors, and what stands where in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from moleflow_fast.engine.plan import Plan


class Ends(NamedTuple):
    """Row of each channel when tokens enter and when they leave (D,) int32, and what is pending then (D, 2)."""

    entry: Tensor
    exit: Tensor
    pending: Tensor


class Rows(NamedTuple):
    """How a block finds its channels.

    Attributes:
        rows: (D,) int32, row of each channel as the block numbers them, the driving half first.
        pending: (D, 2), scale and offset that each row still lacks.
        affine: (D, 2), the block's global scale and offset; ones and zeros in a task flow.
    """

    rows: Tensor
    pending: Tensor
    affine: Tensor


class BaseWeights(NamedTuple):
    """Layers of a base block, in the operands' dtype, the scale network's rows first; biases and taps are fp32."""

    taps: Tensor  # (k * k, split)
    taps_bias: Tensor
    first: Tensor  # (2 h, 2 split) with context, where the shift network reads `split` columns; else (h, split)
    first_bias: Tensor
    second: Tensor  # (2 half, h)
    second_bias: Tensor


class TaskWeights(NamedTuple):
    """Layers of a coupling of the task flow; as `BaseWeights`."""

    first: Tensor  # (2 h, driver)
    first_bias: Tensor
    middle: Tensor  # (2 h, h)
    middle_bias: Tensor
    last: Tensor  # (2 driven, h)
    last_bias: Tensor


def stack(plan: Plan, packs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """One flow of several tasks: what they share once, weights (T, M, K) and biases (T, M) of each below the other."""
    shared = len(Ends._fields) + len(Rows._fields) * (len(plan.kernels) + len(plan.task_blocks))
    layers = [*BaseWeights._fields * len(plan.kernels), *TaskWeights._fields * len(plan.task_blocks)]
    each = list(zip(*(pack[shared:] for pack in packs), strict=True))
    stacked = [
        tensors[0] if name.startswith("taps") else torch.stack(tensors)
        for name, tensors in zip(layers, each, strict=True)
    ]
    return [*packs[0][:shared], *stacked]


def unpack(
    plan: Plan, packed: Sequence[Tensor]
) -> tuple[Ends, list[tuple[Rows, BaseWeights]], list[tuple[Rows, TaskWeights]]]:
    """The ends, and rows and weights of each base block and of each coupling of the task flow."""
    tensors = iter(packed)
    ends = Ends(*islice(tensors, len(Ends._fields)))
    rows = [Rows(*islice(tensors, len(Rows._fields))) for _ in (*plan.kernels, *plan.task_blocks)]
    base = [BaseWeights(*islice(tensors, len(BaseWeights._fields))) for _ in plan.kernels]
    own = [TaskWeights(*islice(tensors, len(TaskWeights._fields))) for _ in plan.task_blocks]
    split = len(base)
    return ends, list(zip(rows[:split], base, strict=True)), list(zip(rows[split:], own, strict=True))
