"""From a flow's modules to what the channel-major kernels read: weights merged into place, rows for permutations.

Only weights and biases change from step to step, and one launch writes them all (`kernels.merge`). Which row each
channel has come to, what is pending there and the context's taps are worked out again only where what is behind them
has changed or trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moleflow_fast.engine.channel_layout import Ends, Rows
from moleflow_fast.engine.plan import Plan
from moleflow_fast.kernels.merge import Merge, MergedLayer
from moleflow_fast.models.coupling import AllInOneBlock
from moleflow_fast.models.expert import FlowModules
from moleflow_fast.models.lora_linear import LoRALinear
from moleflow_fast.models.subnets import MoLEContextSubnet, context_taps
from moleflow_fast.packing.seen import sum_of_log_scales, tensors_of

Layers = Sequence[nn.Module]  # one of each network, the scale network first

_ALIGNED = 64  # elements: weights start where wide copies may


class ChannelPacker:
    """Packs flows, keeping what is fixed, and where each layer's numbers are and go."""

    def __init__(self) -> None:
        self._rows = _Unchanged()
        self._taps = _Unchanged()
        self._merges: dict[tuple[str, int | None], tuple[Merge, list[_Place]]] = {}

    def pack(self, plan: Plan, flow: FlowModules, layers: Sequence[Layers]) -> tuple[list[Tensor], Tensor]:
        """What `channel_layout.unpack` takes apart, and the sum of the logarithms of global scales.

        Args:
            layers: of each base block the first and the last layers, of each coupling of the task flow the first,
                the middle and the last ones.
        """
        *packed, log_scales = self._rows_of(plan, flow)
        taps = self._taps_of(plan, flow)
        merge, places = self._merge(plan, layers, flow.task_id)
        weights, biases = merge()
        merged = [place.take(weights, biases) for place in places]
        for index in range(len(plan.kernels)):
            packed += [*taps[2 * index : 2 * index + 2], *merged[2 * index], *merged[2 * index + 1]]
        for pair in merged[2 * len(plan.kernels) :]:
            packed += pair
        return packed, log_scales

    def _rows_of(self, plan: Plan, flow: FlowModules) -> list[Tensor]:
        blocks = _blocks(flow)
        behind = [t for block in blocks for t in (block.perm_index, block.global_scale, block.global_offset)]
        like = next(tensors_of(flow))
        return self._rows.get(plan.text, behind, lambda: [*find_rows(plan, blocks, like), sum_of_log_scales(flow)])

    def _taps_of(self, plan: Plan, flow: FlowModules) -> list[Tensor]:
        """Taps and bias of one base block after the other, empty where there is no context."""
        contexts = [block.subnet for block in _blocks(flow) if isinstance(block.subnet, MoLEContextSubnet)]
        if not contexts:
            return [next(tensors_of(flow)).new_empty(0)] * (2 * len(plan.kernels))
        behind = [t for context in contexts for t in context.context_parameters()]
        return self._taps.get(
            plan.text, behind, lambda: [t for pair in zip(*context_taps(contexts), strict=True) for t in pair]
        )

    def _merge(self, plan: Plan, layers: Sequence[Layers], task_id: int | None) -> tuple[Merge, list[_Place]]:
        places, merged = _place(layers, task_id)
        known = self._merges.get((plan.text, task_id))
        if known is None or not known[0].holds(merged):
            known = self._merges[plan.text, task_id] = (Merge(merged, plan.scaling, plan.operand_dtype), places)
        return known


class _Unchanged:
    """Keeps tensors as long as what is behind them neither trains nor has been written to."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[Tensor], list[tuple[Tensor, int]]]] = {}

    def get(self, key: str, behind: Sequence[Tensor], make: Callable[[], list[Tensor]]) -> list[Tensor]:
        known = self._kept.get(key)
        if known is None or any(t.requires_grad for t in behind) or not _same(behind, known[1]):
            known = self._kept[key] = (make(), [(t.detach(), t._version) for t in behind])
        return known[0]


class _Place(NamedTuple):
    """Where the layers of one group stand, one below the other, as wide as the first."""

    weights: int
    biases: int
    rows: int
    width: int

    def take(self, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (rows, width) and biases (rows,), views."""
        own = weights[self.weights : self.weights + self.rows * self.width].view(self.rows, self.width)
        return own, biases[self.biases : self.biases + self.rows]


def _place(groups: Sequence[Layers], task_id: int | None) -> tuple[list[_Place], list[MergedLayer]]:
    places: list[_Place] = []
    merged: list[MergedLayer] = []
    weights = biases = 0
    for group in groups:
        width = _linear(group[0]).weight.shape[1]
        rows = sum(len(_linear(layer).weight) for layer in group)
        places.append(_Place(weights, biases, rows, width))
        out = weights
        for layer in group:
            merged.append(_merged_layer(layer, task_id, width, out, biases))
            out += len(_linear(layer).weight) * width
            biases += len(_linear(layer).weight)
        weights = -(-out // _ALIGNED) * _ALIGNED
    return places, merged


def _merged_layer(layer: nn.Module, task_id: int | None, width: int, out: int, bias_out: int) -> MergedLayer:
    linear, key = _linear(layer), str(task_id)
    stores = (layer.lora_A, layer.lora_B, layer.task_biases) if isinstance(layer, LoRALinear) else ()
    found = [store[key].detach().contiguous() if key in store else None for store in stores]
    lora_a, lora_b, task_bias = found or (None, None, None)
    bias = None if linear.bias is None else linear.bias.detach().contiguous()
    return MergedLayer(linear.weight.detach().contiguous(), bias, task_bias, lora_a, lora_b, width, out, bias_out)


def _blocks(flow: FlowModules) -> list[AllInOneBlock]:
    return list(flow.base.module_list)  # type: ignore[arg-type]


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


def _linear(layer: nn.Module) -> nn.Linear:
    return layer.base_linear if isinstance(layer, LoRALinear) else layer  # type: ignore[return-value]


def _same(tensors: Sequence[Tensor], before: Sequence[tuple[Tensor, int]]) -> bool:
    return len(tensors) == len(before) and all(
        t.data_ptr() == old.data_ptr() and t._version == version
        for t, (old, version) in zip(tensors, before, strict=True)
    )


def _pass_on(pending: Tensor, rows: Tensor, affine: Tensor, written: Tensor) -> Tensor:
    """What is pending after a block: for `rows`, which it only reads, its affine too; for `written` nothing."""
    after = pending.clone()
    before = pending[rows]
    after[rows] = torch.stack([before[:, 0] * affine[:, 0], before[:, 1] * affine[:, 0] + affine[:, 1]], dim=1)
    after[written] = torch.stack([torch.ones_like(written), torch.zeros_like(written)], dim=1).to(after.dtype)
    return after
