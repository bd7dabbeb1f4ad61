"""What training adds to a block: LoRA merged into its weights, and the gradients that plain products give.

Those go through cuBLAS as the engine calls it; see `kernel_cases`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from cases import Case, Sizes, moved
from counts import Work
from torch import Tensor

from moleflow_fast.engine.gradients import Gradients
from moleflow_fast.kernels.merge import merge
from moleflow_fast.ops.lora_linear import weight_gradient

SCALING = 1 / 64
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Layers:
    """Input (in, N) and output gradient (out, N) of each by name, views of `tensors`, which networks share."""

    named: dict[str, tuple[Tensor, Tensor]]
    tensors: tuple[Tensor, ...]

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each."""
        return {name: (len(dy), len(x)) for name, (x, dy) in self.named.items()}


def merged_weights(sizes: Sizes) -> Case:
    """W + scaling B A of the four layers of a block, fp32, as products read it."""
    lora = [_lora(sizes, *shape) for shape in _base_shapes(sizes).values()]
    weights = [sizes.normal(*shape) for shape in _base_shapes(sizes).values()]
    outs = [torch.empty_like(weight, dtype=sizes.dtype) for weight in weights]

    def kernel() -> tuple[Tensor, ...]:
        for weight, (a, b), out in zip(weights, lora, outs, strict=True):
            merge(weight, a, b, SCALING, out)
        return tuple(outs)

    def definition() -> tuple[Tensor, ...]:
        pairs = zip(weights, lora, strict=True)
        return tuple(torch.addmm(weight, b, a, alpha=SCALING).to(sizes.dtype) for weight, (a, b) in pairs)

    macs = sizes.rank * sum(weight.numel() for weight in weights)
    return Case(kernel, definition, Work(macs, moved(*weights, *(p for pair in lora for p in pair), *outs)), fp32=True)


def input_gradient(sizes: Sizes) -> Case:
    """W^T dh of both networks' first layers: of the driving half, and of its context from the scale network alone."""
    h, driver = sizes.hidden, sizes.driver
    weight, dh, dx = sizes.weight(2 * h, 2 * driver), sizes.operand(2 * h), sizes.operand(2 * driver)

    def kernel() -> tuple[Tensor, ...]:
        torch.mm(weight[:, :driver].t(), dh, out=dx[:driver])
        torch.mm(weight[:h, driver:].t(), dh[:h], out=dx[driver:])
        return (dx,)

    def definition() -> tuple[Tensor, ...]:
        scale, shift = weight[:h].T @ dh[:h], weight[h:, :driver].T @ dh[h:]
        return (torch.cat([scale[:driver] + shift, scale[driver:]]),)

    read = (weight[:h], weight[h:, :driver])
    macs = sizes.tokens * sum(part.numel() for part in read)
    return Case(kernel, definition, Work(macs, moved(*read, dh, dx)))


def task_input_gradient(sizes: Sizes) -> Case:
    """The same of the task flow, whose networks read one input."""
    weight, dh = sizes.weight(2 * sizes.units, sizes.driver), sizes.operand(2 * sizes.units)
    dx = sizes.operand(sizes.driver)
    work = Work(sizes.tokens * weight.numel(), moved(weight, dh, dx))
    return Case(lambda: (torch.mm(weight.t(), dh, out=dx),), lambda: (weight.T @ dh,), work)


def lora_gradients(sizes: Sizes) -> Case:
    """Of A and B of the four layers of a block whose weights are frozen, through products of rank r."""
    layers, params = _base_layers(sizes), {}
    for name, shape in layers.shapes().items():
        params |= _lora_slots(name, *_lora(sizes, *shape))
    macs = 2 * sizes.rank * sizes.tokens * sum(out + inputs for out, inputs in layers.shapes().values())
    return _gradients(layers, params, macs)


def weight_and_lora_gradients(sizes: Sizes) -> Case:
    """Of W, A and B, as the first task trains them: A's and B's from the dense gradient of W."""
    layers, params = _base_layers(sizes), {}
    for name, shape in layers.shapes().items():
        params |= {f"{name}.weight": sizes.normal(*shape)} | _lora_slots(name, *_lora(sizes, *shape))
    macs = (sizes.tokens + 2 * sizes.rank) * sum(out * inputs for out, inputs in layers.shapes().values())
    return _gradients(layers, params, macs)


def task_weight_gradients(sizes: Sizes) -> Case:
    """Of the three layers of both networks of a coupling of the task flow."""
    layers = _task_layers(sizes)
    params = {f"{name}.weight": sizes.normal(*shape) for name, shape in layers.shapes().items()}
    return _gradients(layers, params, sizes.tokens * sum(weight.numel() for weight in params.values()))


CASES: dict[str, Callable[[Sizes], Case]] = {
    "merge of a block": merged_weights,
    "input gradient": input_gradient,
    "input gradient, task flow": task_input_gradient,
    "LoRA gradients": lora_gradients,
    "weight and LoRA gradients": weight_and_lora_gradients,
    "weight gradients, task flow": task_weight_gradients,
}


def _gradients(layers: Layers, params: Parameters, macs: int) -> Case:
    """Bytes: what layers read and their output gradients once; A and B, which are read; every gradient."""

    def kernel() -> tuple[Tensor, ...]:
        gradients = Gradients(params, SCALING)
        for name, (x, dy) in layers.named.items():
            gradients.linear(name, x.t(), dy.t())
        return tuple(gradients.in_order(tuple(params), next(iter(params.values()))))

    def definition() -> tuple[Tensor, ...]:
        dense = {name: weight_gradient(x.t(), dy.t()) for name, (x, dy) in layers.named.items()}
        return tuple(_from_dense(dense, params, slot) for slot in params)

    read = [value for slot, value in params.items() if "lora" in slot]
    return Case(kernel, definition, Work(macs, moved(*layers.tensors, *read, *params.values())))


def _from_dense(dense: Parameters, params: Parameters, slot: str) -> Tensor:
    """The gradient of a slot: of y = x (W + scaling B A)^T."""
    name, _, what = slot.rpartition(".")
    if what == "weight":
        return dense[name]
    if what == "lora_A":
        return SCALING * params[f"{name}.lora_B"].T @ dense[name]
    return SCALING * dense[name] @ params[f"{name}.lora_A"].T


def _base_shapes(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """(out, in) of the layers of a base block."""
    last = (sizes.driven, sizes.hidden)
    return {"s1": (sizes.hidden, 2 * sizes.driver), "t1": (sizes.hidden, sizes.driver), "s2": last, "t2": last}


def _base_layers(sizes: Sizes) -> Layers:
    x, hidden = sizes.operand(2 * sizes.driver), sizes.operand(2 * sizes.hidden)
    dhidden, dout = sizes.operand(2 * sizes.hidden), sizes.operand(2 * sizes.driven)
    inputs = (x, x[: sizes.driver], *hidden.chunk(2))
    named = dict(zip(_base_shapes(sizes), zip(inputs, (*dhidden.chunk(2), *dout.chunk(2)), strict=True), strict=True))
    return Layers(named, (x, hidden, dhidden, dout))


def _task_layers(sizes: Sizes) -> Layers:
    x, dout = sizes.operand(sizes.driver), sizes.operand(2 * sizes.driven)
    first, middle, dfirst, dmiddle = (sizes.operand(2 * sizes.units) for _ in range(4))
    inputs = (x, x, *first.chunk(2), *middle.chunk(2))
    outputs = (*dfirst.chunk(2), *dmiddle.chunk(2), *dout.chunk(2))
    named = dict(zip(("s1", "t1", "s2", "t2", "s3", "t3"), zip(inputs, outputs, strict=True), strict=True))
    return Layers(named, (x, first, middle, dfirst, dmiddle, dout))


def _lora(sizes: Sizes, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """A and B."""
    return sizes.normal(sizes.rank, inputs) / inputs**0.5, sizes.normal(outputs, sizes.rank)


def _lora_slots(name: str, lora_a: Tensor, lora_b: Tensor) -> Parameters:
    return {f"{name}.lora_A": lora_a, f"{name}.lora_B": lora_b}
