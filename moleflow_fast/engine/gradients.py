"""Gradients of a flow's parameters, added up over chunks of tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moleflow_fast.ops.lora_gradients import (
    factored_gradients,
    factored_is_cheaper,
    gradients_from_dense,
    weight_gradient,
)


class Gradients:
    """Collects what the slots of a plan want; a layer is a prefix like "flow.3.s1".

    The dense weight gradient of a LoRA layer is formed only where W trains too, or the rank is large.
    """

    def __init__(self, params: Mapping[str, Tensor], scaling: float) -> None:
        self.params = params
        self.scaling = scaling
        self._sums: dict[str, Tensor] = {}

    def wants(self, name: str) -> bool:
        return name in self.params

    def vector(self, layer: str, width: int, like: Tensor) -> Tensor:
        """Where the column sums of a layer's output gradient (its bias gradient) are added up, (width,)."""
        return self._sum(f"{layer}.bias", (width,), like)

    def linear(self, layer: str, x: Tensor, dy: Tensor) -> None:
        """Take in a linear layer's input x (n, in) and output gradient dy (n, out)."""
        lora = self.wants(f"{layer}.lora_A")
        if not lora and not self.wants(f"{layer}.weight"):
            return
        if lora and not self.wants(f"{layer}.weight") and factored_is_cheaper(*self._lora(layer)):
            lora_a, lora_b = factored_gradients(*self._lora(layer), self.scaling, x, dy)
            self._sum(f"{layer}.lora_A", lora_a.shape, lora_a).add_(lora_a)
            self._sum(f"{layer}.lora_B", lora_b.shape, lora_b).add_(lora_b)
            return
        dense = self._sums.get(f"{layer}.weight")
        if dense is None:
            self._sums[f"{layer}.weight"] = weight_gradient(x, dy)
            return
        torch.addmm(dense, dy.t(), x, out=dense)

    def add(self, name: str, value: Tensor) -> None:
        """Add to the gradient of a tensor that is no linear layer's."""
        if self.wants(name):
            self._sum(name, value.shape, value).add_(value)

    def sum_for(self, name: str, like: Tensor) -> Tensor:
        """A zeroed sum of the shape of parameter `name`, for kernels that add to it."""
        return self._sum(name, self.params[name].shape, like)

    def in_order(self, slots: tuple[str, ...], like: Tensor) -> list[Tensor]:
        """The gradient of each slot, as tensors of their own."""
        for slot in slots:
            layer, _, what = slot.rpartition(".")
            dense = self._sums.get(f"{layer}.weight")
            if what == "lora_A" and dense is not None:
                both = gradients_from_dense(*self._lora(layer), self.scaling, dense)
                self._sums[f"{layer}.lora_A"], self._sums[f"{layer}.lora_B"] = both
            if what == "task_bias":
                self._sums[slot] = self._sums[f"{layer}.bias"].clone()  # the base bias owns the sum itself
        return [self._sum(slot, self.params[slot].shape, like) for slot in slots]

    def _lora(self, layer: str) -> tuple[Tensor, Tensor]:
        return self.params[f"{layer}.lora_A"], self.params[f"{layer}.lora_B"]

    def _sum(self, name: str, shape: tuple[int, ...] | torch.Size, like: Tensor) -> Tensor:
        if name not in self._sums:
            self._sums[name] = like.new_zeros(shape)
        return self._sums[name]
