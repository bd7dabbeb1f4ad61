"""Layers of all tasks as one: parameters stacked (T, ...), and each image of a batch takes its own task's.

`torch.export` would fix the batch size of a `torch.vmap`, and a flow that is called task by task needs to know on the
host which tasks a batch holds. Here the tasks are data: `chosen` says which one each image takes, and the modules
around these layers run as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moleflow_fast.models.lora_linear import LoRALinear
from moleflow_fast.models.subnets import MoLESubnet

_Module = TypeVar("_Module", bound=nn.Module)

# Place of each image's task in the stacks, (B,).
_places: ContextVar[Tensor] = ContextVar("places_of_tasks")


@contextmanager
def chosen(places: Tensor) -> Iterator[None]:
    """In the block image b takes what lies at places[b] of every stack, (B,) int64."""
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)


class LinearByImage(nn.Module):
    """y_b = x_b W_t^T + b_t with t the task of image b."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.register_buffer("weight", torch.stack([layer.weight.detach().T for layer in layers]))  # (T, in, out)
        self.register_buffer("bias", torch.stack([layer.bias.detach() for layer in layers])[:, None])  # (T, 1, out)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, in) -> (B, H, W, out)."""
        y = torch.bmm(x.flatten(1, 2), of_images(self.weight)) + of_images(self.bias)
        return y.unflatten(1, x.shape[1:3])


class LoRAByImage(nn.Module):
    """y_b = x_b W^T + (alpha / r) (x_b A_t^T) B_t^T + b + b_t; a task without LoRA or bias of its own adds zeros.

    Spectral norm is divided out for good.
    """

    weight: Tensor
    down: Tensor
    up: Tensor
    bias: Tensor

    def __init__(self, layer: LoRALinear, task_ids: Sequence[int]) -> None:
        super().__init__()
        keys = [str(t) for t in task_ids]
        self.has_lora = any(key in layer.lora_A for key in keys)
        self.register_buffer("weight", layer.get_merged_weight(None).detach().clone())
        self.register_buffer("bias", torch.stack([layer.merged_bias(t).detach() for t in task_ids])[:, None])
        if self.has_lora:
            self.register_buffer("down", _stacked(layer.lora_A, keys))  # (T, in, r)
            self.register_buffer("up", layer.scaling * _stacked(layer.lora_B, keys))  # (T, r, out)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, in) -> (B, H, W, out)."""
        rows = x.flatten(1, 2)
        y = F.linear(rows, self.weight) + of_images(self.bias)
        if self.has_lora:
            y = y + torch.bmm(torch.bmm(rows, of_images(self.down)), of_images(self.up))
        return y.unflatten(1, x.shape[1:3])


def places_of_images() -> Tensor:
    """Those of `chosen`, (B,)."""
    return _places.get()


def of_images(stack: Tensor) -> Tensor:
    """stack (T, ...) -> (B, ...): each image's own."""
    return stack.index_select(0, places_of_images())


def linear_layers_by_image(modules: Sequence[_Module]) -> _Module:
    """One module for the same module of every task: a copy of the first with its linear layers stacked."""
    merged = copy.deepcopy(modules[0])
    for name, layer in modules[0].named_modules():
        if isinstance(layer, nn.Linear):
            merged.set_submodule(name, LinearByImage([module.get_submodule(name) for module in modules]))  # type: ignore[misc]
    return merged


def experts_by_image(flow: _Module, task_ids: Sequence[int]) -> _Module:
    """A copy of a flow whose layers have the LoRA parts, or full layers, of all tasks stacked."""
    merged = copy.deepcopy(flow)
    for name, module in flow.named_modules():
        if isinstance(module, LoRALinear):
            merged.set_submodule(name, LoRAByImage(module, task_ids))
        elif isinstance(module, MoLESubnet) and module.use_regular_linear:
            merged.set_submodule(name, _subnet_by_image(module, task_ids))
    return merged


def _stacked(store: nn.ParameterDict, keys: Sequence[str]) -> Tensor:
    """The matrices of the tasks, transposed; zeros for a task that has none."""
    nothing = torch.zeros_like(next(iter(store.values())))
    return torch.stack([(store[key] if key in store else nothing).detach().T for key in keys])


def _subnet_by_image(subnet: MoLESubnet, task_ids: Sequence[int]) -> nn.Module:
    layers = zip(*(subnet.layers_of(t) for t in task_ids), strict=True)
    first, second = (LinearByImage(own) for own in layers)
    return nn.Sequential(first, nn.ReLU(), second)
