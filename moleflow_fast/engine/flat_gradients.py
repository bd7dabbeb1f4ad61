"""Gradients of a flow's parameters in one flat tensor: every kernel and product writes into its place.

Nothing is zeroed or added up but partial sums over tokens, which one launch sums for all layers at the end, as one
launch forms all gradients of LoRA factors that come from a dense one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from moleflow_fast.engine.plan import Plan
from moleflow_fast.engine.slots import offsets
from moleflow_fast.kernels.lora_gradients import LoraGradients, LoraLayer
from moleflow_fast.kernels.products import sum_tiles
from moleflow_fast.kernels.sums import Sum, Sums

_NOWHERE = -1


class FlatGradients:
    """Collects what the slots of a plan want; a layer is a prefix like "flow.3.s1".

    Args:
        params: by slot.
        tokens: N.
        like: a tensor on the device, fp32.
        factored: gradients of A and B come from products of rank r, and not from the dense gradient of W, unless that
            is wanted itself.
    """

    def __init__(self, plan: Plan, params: Mapping[str, Tensor], tokens: int, like: Tensor, factored: bool) -> None:
        self._plan = plan
        self._params = params
        self._factored = factored
        self._at = offsets(plan.slots, tuple(params[slot].numel() for slot in plan.slots))
        self.flat = like.new_empty(sum(p.numel() for p in params.values()))
        self._parts = like.new_empty(sum_tiles(tokens), plan.bias_values)
        self._sums: list[Sum] = []
        self._column = 0
        frozen = any(f"{s.removesuffix('lora_A')}weight" not in params for s in params if s.endswith(".lora_A"))
        # Of weights that are frozen, whose dense gradients only lead to those of A and B.
        self._beside = like.new_empty(plan.base_weight_values if frozen and not factored else 0)
        self._room_taken = 0
        self._lora: list[LoraLayer] = []
        self._alive: list[Tensor] = []  # what is known by its address

    def wants(self, slot: str) -> bool:
        return slot in self._params

    def place(self, slot: str) -> Tensor:
        """Where the gradient of a slot goes."""
        shape = self._params[slot].shape
        return self.flat[self._at[slot] :][: math.prod(shape)].view(shape)

    def partial_sums(self, width: int) -> Tensor:
        """Room for partial sums of the next `width` columns, (`sum_tiles`, width)."""
        return self._parts[:, self._column : self._column + width]

    def summed(self, layers: Sequence[str], width: int, tiles: int) -> None:
        """The first `tiles` rows of that room are written: they add up to the bias gradients of these layers."""
        each = width // len(layers)
        for number, layer in enumerate(layers):
            out = (self._at.get(f"{layer}.bias", _NOWHERE), self._at.get(f"{layer}.task_bias", _NOWHERE))
            if out != (_NOWHERE, _NOWHERE):
                self._sums.append(Sum(self._column + number * each, each, tiles, out))
        self._column += width

    def layers(self, names: Sequence[str], dy: Tensor, x: Tensor) -> None:
        """Take in output gradients dy (n, out, N) of n layers, and what they read: x (n, in, N), or (in, N) for all."""
        for first, last in _runs([(self.wants(f"{n}.weight"), self.wants(f"{n}.lora_A")) for n in names]):
            own, own_dy, own_x = names[first:last], dy[first:last], x if x.dim() == 2 else x[first:last]
            if self.wants(f"{own[0]}.weight"):
                self._dense(own, own_dy, own_x, self._at[f"{own[0]}.weight"])
            elif self.wants(f"{own[0]}.lora_A") and self._factored:
                self._factors(own, own_dy, own_x)
            elif self.wants(f"{own[0]}.lora_A"):
                self._dense(own, own_dy, own_x, None)

    def first_layers(self, names: Sequence[str], dy: Tensor, x: Tensor, inputs: Sequence[int]) -> None:
        """Take in output gradients dy (n * out, N) of n layers that read the first rows of x (in, N), `inputs` each.

        Where only A and B are wanted one product is faster than one for each layer, though it forms what no layer
        has: 47 us against 58 us for (1536, 768) and (768, 768) with (768, 384), 12,544 tokens in bf16 on an H200.
        """
        alone = [self.wants(f"{n}.lora_A") and not self.wants(f"{n}.weight") for n in names]
        if not all(alone) or self._factored:
            for name, own, count in zip(names, dy.chunk(len(names)), inputs, strict=True):
                self.layers([name], own[None], x[None, :count])
            return
        room, at = self._room(len(dy) * len(x))
        product(dy, x.t(), room.view(len(dy), len(x)))
        for number, (name, count) in enumerate(zip(names, inputs, strict=True)):
            first = at + number * len(dy) // len(names) * len(x)
            self._lora.append(self._lora_layer(name, first, len(x), count, beside=True))

    def finish(self) -> Tensor:
        """The gradients of all slots, one after the other as `offsets` has them."""
        if self._sums:
            _sums(tuple(self._sums), self.flat.device)(self._parts, self.flat)
        if self._lora:
            coarse = self._plan.operand_dtype != torch.float32
            _lora(tuple(self._lora), self._plan.scaling, self.flat.device)(self.flat, self._beside, coarse)
        return self.flat

    def _dense(self, names: Sequence[str], dy: Tensor, x: Tensor, at: int | None) -> None:
        """dW of layers of one shape, among the gradients from `at` on or beside them, and what follows from it."""
        (count, rows, _), columns, beside = dy.shape, x.shape[-2], at is None
        if at is None:
            out, at = self._room(count * rows * columns)
        else:
            out = self.flat[at:][: count * rows * columns]
        if x.dim() == 2:
            product(dy.reshape(count * rows, -1), x.t(), out.view(count * rows, columns))
        else:
            product(dy, x.transpose(1, 2), out.view(count, rows, columns))
        for number, name in enumerate(names):
            if self.wants(f"{name}.lora_A"):
                first = at + number * rows * columns
                self._lora.append(self._lora_layer(name, first, columns, columns, beside))

    def _factors(self, names: Sequence[str], dy: Tensor, x: Tensor) -> None:
        """dA (r, in) = scaling (B^T dy) x^T and dB (out, r) = scaling dy (A x)^T of each layer."""
        for name, own_dy, own_x in zip(names, dy, x, strict=True):
            lora_a, lora_b = (self._params[f"{name}.{which}"].to(dy.dtype) for which in ("lora_A", "lora_B"))
            product(self._thin(lora_b.t(), own_dy), own_x.t(), self.place(f"{name}.lora_A"))
            product(own_dy, self._thin(lora_a, own_x).t(), self.place(f"{name}.lora_B"))

    def _thin(self, factor: Tensor, x: Tensor) -> Tensor:
        """scaling * factor (r, c) x (c, N)."""
        out = x.new_empty(len(factor), x.shape[1])
        return torch.addmm(out, factor, x, beta=0, alpha=self._plan.scaling, out=out)

    def _lora_layer(self, name: str, dense: int, stride: int, inputs: int, beside: bool) -> LoraLayer:
        a, b = f"{name}.lora_A", f"{name}.lora_B"
        lora_a, lora_b = (self._params[slot].contiguous() for slot in (a, b))
        self._alive += [lora_a, lora_b]
        addresses, (rows, rank) = (lora_a.data_ptr(), lora_b.data_ptr()), lora_b.shape
        return LoraLayer(*addresses, dense, stride, beside, rows, rank, inputs, self._at[a], self._at[b])

    def _room(self, values: int) -> tuple[Tensor, int]:
        """A part of the buffer for gradients of weights that are frozen, and where it starts."""
        at, self._room_taken = self._room_taken, self._room_taken + values
        return self._beside[at : at + values], at


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a b, of two matrices or two batches; of bf16 operands in fp32, as optimizers want it."""
    multiply = torch.mm if a.dim() == 2 else torch.bmm
    if a.dtype == out.dtype:
        multiply(a, b, out=out)
    elif a.device.type == "cuda":
        multiply(a, b, out_dtype=out.dtype, out=out)
    elif a.is_meta:  # has no numbers, and torch 2.11 none of these batches for it
        return
    else:
        out.copy_(multiply(a.to(out.dtype), b.to(out.dtype)))


# Captured steps hold their addresses, so tables are never dropped.
@cache
def _sums(sums: tuple[Sum, ...], device: torch.device) -> Sums:
    return Sums(sums, device)


@cache
def _lora(layers: tuple[LoraLayer, ...], scaling: float, device: torch.device) -> LoraGradients:
    return LoraGradients(layers, scaling, device)


def _runs(values: Sequence[object]) -> Iterator[tuple[int, int]]:
    """First and last of each run of equal values."""
    first = 0
    for last in range(1, len(values) + 1):
        if last == len(values) or values[last] != values[first]:
            yield first, last
            first = last
