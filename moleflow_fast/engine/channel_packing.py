"""From a flow's modules to what the channel-major kernels read: weights merged into place, rows for permutations.

Only weights change from step to step. Which row each channel has come to, and what is pending there, follows from
permutations, global scales and offsets; it is worked out again only where those train.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moleflow_fast.engine.plan import Plan
from moleflow_fast.kernels.merge import merge
from moleflow_fast.models.coupling import AllInOneBlock
from moleflow_fast.models.dia import AffineCouplingBlock
from moleflow_fast.models.lora_linear import LoRALinear


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


Layers = Sequence[tuple[str, nn.Module]]


def find_rows(plan: Plan, blocks: Sequence[AllInOneBlock], like: Tensor) -> list[Tensor]:
    """`Ends`, then `Rows` of each base block and of each coupling of the task flow."""
    rows = torch.arange(plan.channels, dtype=torch.int32, device=like.device)
    identity = torch.stack([like.new_ones(plan.channels), like.new_zeros(plan.channels)], dim=1)
    entry, pending = rows, identity
    found: list[Tensor] = []
    for block in blocks:
        affine = torch.stack([block.scale().detach(), block.global_offset[0].detach()], dim=1)
        found += Rows(rows, pending, affine)
        pending = _pass_on(pending, rows[: plan.split], affine[: plan.split], rows[plan.split :])
        rows = rows[block.perm_index]
    for structure in plan.task_blocks:
        driver, driven = plan.halves(structure)
        found += Rows(torch.cat([rows[driver], rows[driven]]), pending, identity)
        pending = _pass_on(pending, rows[driver], identity[driver], rows[driven])
    return [*Ends(entry, rows, pending), *found]


def pack_base_block(
    plan: Plan, layers: Layers, context: tuple[Tensor, Tensor] | None, task_id: int | None
) -> BaseWeights:
    """`context`: taps and bias with their strength folded in, None for one network without context."""
    named = dict(layers)
    first = [named[name] for name in ("s1", "t1") if name in named]
    second = [named[name] for name in ("s2", "t2") if name in named]
    taps, taps_bias = context or (_bias(first[0], task_id)[:0],) * 2
    weights = (_stacked(plan, first, task_id), _biases(first, task_id))
    return BaseWeights(taps, taps_bias, *weights, _stacked(plan, second, task_id), _biases(second, task_id))


def pack_coupling(plan: Plan, block: AffineCouplingBlock) -> TaskWeights:
    packed: list[Tensor] = []
    for layers in zip(_linears(block.s_net), _linears(block.t_net), strict=True):
        packed += [_stacked(plan, layers, None), _biases(layers, None)]
    return TaskWeights(*packed)


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
    """What `find_rows` and then each block gave, in the order base, task flow."""
    tensors = iter(packed)
    ends = Ends(*islice(tensors, len(Ends._fields)))
    rows = [Rows(*islice(tensors, len(Rows._fields))) for _ in (*plan.kernels, *plan.task_blocks)]
    base = [BaseWeights(*islice(tensors, len(BaseWeights._fields))) for _ in plan.kernels]
    own = [TaskWeights(*islice(tensors, len(TaskWeights._fields))) for _ in plan.task_blocks]
    split = len(base)
    return ends, list(zip(rows[:split], base, strict=True)), list(zip(rows[split:], own, strict=True))


def _stacked(plan: Plan, layers: Sequence[nn.Module], task_id: int | None) -> Tensor:
    """The layers' merged weights below each other, as wide as the first; a narrower one leaves its rest unwritten."""
    weights = [_linear(layer).weight for layer in layers]
    out = weights[0].new_empty(sum(len(w) for w in weights), weights[0].shape[1], dtype=plan.operand_dtype)
    parts = out.split([len(w) for w in weights])
    for layer, weight, part in zip(layers, weights, parts, strict=True):
        own, key = part[:, : weight.shape[1]], str(task_id)
        if isinstance(layer, LoRALinear) and key in layer.lora_A:
            merge(weight, layer.lora_A[key], layer.lora_B[key], layer.scaling, own)
        else:
            own.copy_(weight)
    return out


def _biases(layers: Iterable[nn.Module], task_id: int | None) -> Tensor:
    return torch.cat([_bias(layer, task_id) for layer in layers])


def _bias(layer: nn.Module, task_id: int | None) -> Tensor:
    bias = layer.merged_bias(task_id) if isinstance(layer, LoRALinear) else layer.bias
    return bias.detach()  # type: ignore[operator]


def _linear(layer: nn.Module) -> nn.Linear:
    return layer.base_linear if isinstance(layer, LoRALinear) else layer  # type: ignore[return-value]


def _linears(net: nn.Module) -> Iterator[nn.Linear]:
    return (m for m in net.layers if isinstance(m, nn.Linear))  # type: ignore[union-attr]


def _pass_on(pending: Tensor, rows: Tensor, affine: Tensor, written: Tensor) -> Tensor:
    """What is pending after a block: for `rows`, which it only reads, its affine too; for `written` nothing."""
    after = pending.clone()
    before = pending[rows]
    after[rows] = torch.stack([before[:, 0] * affine[:, 0], before[:, 1] * affine[:, 0] + affine[:, 1]], dim=1)
    after[written] = torch.stack([torch.ones_like(written), torch.zeros_like(written)], dim=1).to(after.dtype)
    return after
