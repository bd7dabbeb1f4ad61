"""What training adds to a flow: LoRA merged into all weights, and the gradients of weights, factors and biases.

Products go through cuBLAS as the engine calls it; see `kernel_cases`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from cases import CLAMP, Case, Sizes, moved
from counts import Work
from torch import Tensor

from moleflow_fast.engine.flat_gradients import FlatGradients
from moleflow_fast.engine.plan import Plan
from moleflow_fast.engine.slots import split
from moleflow_fast.kernels.merge import Merge, MergedLayer
from moleflow_fast.kernels.products import sum_tiles
from moleflow_fast.kernels.sums import Sum, Sums
from moleflow_fast.ops.lora_gradients import weight_gradient

BLOCKS, COUPLINGS = 8, 4  # of a flow
SCALING = 1 / 64
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Layers:
    """Of all base blocks, (blocks, rows, N): what layers read, and their output gradients; both networks' rows."""

    operand: Tensor
    hidden: Tensor
    dhidden: Tensor
    dout: Tensor

    def named(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Input and output gradient of each layer."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for block in range(len(self.operand)):
            x, hidden = self.operand[block], self.hidden[block].chunk(2)
            dhidden, dout = self.dhidden[block].chunk(2), self.dout[block].chunk(2)
            own = {"s1": (x, dhidden[0]), "t1": (x[: len(x) // 2], dhidden[1])}
            own |= {"s2": (hidden[0], dout[0]), "t2": (hidden[1], dout[1])}
            found |= {f"flow.{block}.{name}": pair for name, pair in own.items()}
        return found


def merged_weights(sizes: Sizes) -> Case:
    """W + scaling B A of every layer of the base blocks, the weights of the task flow, and all biases."""
    shapes = [shape for _ in range(BLOCKS) for shape in _base_shapes(sizes)]
    own = [(2 * sizes.units, sizes.driver), (2 * sizes.units, sizes.units), (2 * sizes.driven, sizes.units)]
    layers: list[MergedLayer] = []
    at = bias_at = 0
    for number, (rows, columns) in enumerate([*shapes, *(COUPLINGS * own)]):
        lora = _lora(sizes, rows, columns) if number < len(shapes) else (None, None)
        layers.append(MergedLayer(sizes.normal(rows, columns), sizes.normal(rows), None, *lora, columns, at, bias_at))
        at, bias_at = at + rows * columns, bias_at + rows
    merge = Merge(layers, SCALING, sizes.dtype)

    def definition() -> tuple[Tensor, ...]:
        return torch.cat([_merged(layer, sizes.dtype).flatten() for layer in layers]), torch.cat(
            [layer.bias for layer in layers if layer.bias is not None]
        )

    macs = sizes.rank * sum(rows * columns for rows, columns in shapes)
    read = [tensor for layer in layers for tensor in layer.tensors()]
    written = at * torch.empty(0, dtype=sizes.dtype).itemsize + bias_at * 4
    return Case(lambda: merge(), definition, Work(macs, moved(*read) + written), fp32=True)


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
    """Of A and B of all layers whose weights are frozen, from dense gradients that nobody keeps."""
    return _lora_gradients(sizes, factored=False)


def factored_lora_gradients(sizes: Sizes) -> Case:
    """The same through products of rank r."""
    return _lora_gradients(sizes, factored=True)


def weight_and_lora_gradients(sizes: Sizes) -> Case:
    """Of W, A and B, as the first task trains them: A's and B's from the dense gradient of W."""
    layers, params = _base_layers(sizes), {}
    for name, (x, dy) in layers.named().items():
        params |= {f"{name}.weight": sizes.normal(len(dy), len(x))} | _lora_slots(name, *_lora(sizes, len(dy), len(x)))
    macs = (sizes.tokens + 2 * sizes.rank) * _weights(layers)
    return _base_gradients(sizes, layers, params, macs, factored=False)


def task_weight_gradients(sizes: Sizes) -> Case:
    """Of the three layers of both networks of a coupling of the task flow."""
    x, dout = sizes.operand(sizes.driver), sizes.operand(2 * sizes.driven)
    first, middle, dfirst, dmiddle = (sizes.operand(2 * sizes.units) for _ in range(4))
    by_layer = [(x, dfirst), (first, dmiddle), (middle, dout)]
    params: Parameters = {}
    for number, (inputs, outputs) in enumerate(by_layer, start=1):
        columns = len(inputs) if number == 1 else len(inputs) // 2
        params |= {f"dia.0.{n}{number}.weight": sizes.normal(len(outputs) // 2, columns) for n in "st"}

    def run(gradients: FlatGradients) -> None:
        for number, (inputs, outputs) in enumerate(by_layer, start=1):
            names = [f"dia.0.{n}{number}" for n in "st"]
            gradients.layers(names, _pair(outputs), inputs if number == 1 else _pair(inputs))

    def definition() -> tuple[Tensor, ...]:
        found = []
        for number, (inputs, outputs) in enumerate(by_layer, start=1):
            read = (inputs, inputs) if number == 1 else inputs.chunk(2)
            found += [weight_gradient(i.t(), o.t()) for i, o in zip(read, outputs.chunk(2), strict=True)]
        return tuple(found)

    tensors = [t for pair in by_layer for t in pair]
    macs = sizes.tokens * sum(weight.numel() for weight in params.values())
    work = Work(macs, moved(*tensors, *params.values()))
    return Case(_collected(sizes, params, run, factored=False), definition, work)


def sums_over_tokens(sizes: Sizes) -> Case:
    """Gradients of all biases of a flow from the partial sums that products leave, one row for 128 tokens."""
    widths = BLOCKS * [sizes.hidden, sizes.hidden, sizes.driven, sizes.driven]
    widths += COUPLINGS * [*4 * [sizes.units], *2 * [sizes.driven]]
    tiles = -(-sizes.tokens // 128)
    parts, out = sizes.normal(sum_tiles(sizes.tokens), sum(widths)), sizes.normal(sum(widths))
    firsts = [sum(widths[:number]) for number in range(len(widths))]
    add_up = Sums(
        tuple(Sum(first, width, tiles, (first, -1)) for first, width in zip(firsts, widths, strict=True)), parts.device
    )

    def kernel() -> tuple[Tensor, ...]:
        add_up(parts, out)
        return (out,)

    return Case(kernel, lambda: (parts[:tiles].sum(0),), Work(0, moved(parts[:tiles], out)))


CASES: dict[str, Callable[[Sizes], Case]] = {
    "merge of a flow": merged_weights,
    "input gradient": input_gradient,
    "input gradient, task flow": task_input_gradient,
    "LoRA gradients of a flow": lora_gradients,
    "LoRA gradients of a flow, factored": factored_lora_gradients,
    "weight and LoRA gradients of a flow": weight_and_lora_gradients,
    "weight gradients, task flow": task_weight_gradients,
    "sums over tokens": sums_over_tokens,
}


def _lora_gradients(sizes: Sizes, factored: bool) -> Case:
    layers, params = _base_layers(sizes), {}
    for name, (x, dy) in layers.named().items():
        params |= _lora_slots(name, *_lora(sizes, len(dy), len(x)))
    thin = sum(len(dy) + len(x) for x, dy in layers.named().values())
    return _base_gradients(sizes, layers, params, 2 * sizes.rank * sizes.tokens * thin, factored)


def _base_gradients(sizes: Sizes, layers: Layers, params: Parameters, macs: int, factored: bool) -> Case:
    """Work is the cheapest way's; bytes: what layers read and their output gradients once, A and B, every gradient."""

    def run(gradients: FlatGradients) -> None:
        inputs = 2 * sizes.driver, sizes.driver
        for block in range(BLOCKS):
            names = [f"flow.{block}.{n}1" for n in "st"]
            gradients.first_layers(names, layers.dhidden[block], layers.operand[block], inputs)
        names = [f"flow.{block}.{n}2" for block in range(BLOCKS) for n in "st"]
        gradients.layers(names, _networks(layers.dout), _networks(layers.hidden))

    def definition() -> tuple[Tensor, ...]:
        dense = {name: weight_gradient(x.t(), dy.t()) for name, (x, dy) in layers.named().items()}
        return tuple(_from_dense(dense, params, slot) for slot in params)

    tensors = (layers.operand, layers.hidden, layers.dhidden, layers.dout)
    read = [value for slot, value in params.items() if "lora" in slot]
    work = Work(macs, moved(*tensors, *read, *params.values()))
    return Case(_collected(sizes, params, run, factored), definition, work)


def _collected(
    sizes: Sizes, params: Parameters, run: Callable[[FlatGradients], None], factored: bool
) -> Callable[[], tuple[Tensor, ...]]:
    operands = "bf16" if sizes.dtype == torch.bfloat16 else "fp32"
    plan = Plan(sizes.channels, BLOCKS * (3,), (), CLAMP, SCALING, operands, tuple(params))
    like = next(iter(params.values()))

    def kernel() -> tuple[Tensor, ...]:
        gradients = FlatGradients(plan, params, sizes.tokens, like, factored)
        run(gradients)
        return tuple(split(plan, gradients.finish(), list(params.values())))

    return kernel


def _merged(layer: MergedLayer, dtype: torch.dtype) -> Tensor:
    if layer.lora_a is None or layer.lora_b is None:
        return layer.weight.to(dtype)
    return torch.addmm(layer.weight, layer.lora_b, layer.lora_a, alpha=SCALING).to(dtype)


def _from_dense(dense: Parameters, params: Parameters, slot: str) -> Tensor:
    """The gradient of a slot: of y = x (W + scaling B A)^T."""
    name, _, what = slot.rpartition(".")
    if what == "weight":
        return dense[name]
    if what == "lora_A":
        return SCALING * params[f"{name}.lora_B"].T @ dense[name]
    return SCALING * dense[name] @ params[f"{name}.lora_A"].T


def _base_shapes(sizes: Sizes) -> Sequence[tuple[int, int]]:
    """(out, in) of s1, t1, s2 and t2."""
    last = (sizes.driven, sizes.hidden)
    return (sizes.hidden, 2 * sizes.driver), (sizes.hidden, sizes.driver), last, last


def _base_layers(sizes: Sizes) -> Layers:
    rows = (2 * sizes.driver, 2 * sizes.hidden, 2 * sizes.hidden, 2 * sizes.driven)
    return Layers(*(sizes.operand(BLOCKS * count).unflatten(0, (BLOCKS, count)) for count in rows))


def _weights(layers: Layers) -> int:
    return sum(len(dy) * len(x) for x, dy in layers.named().values())


def _networks(slab: Tensor) -> Tensor:
    """(blocks, 2 n, N) -> (2 blocks, n, N), a view."""
    return slab.unflatten(1, (2, -1)).flatten(0, 1)


def _pair(rows: Tensor) -> Tensor:
    """(2 n, N) -> (2, n, N), a view."""
    return rows.unflatten(0, (2, -1))


def _lora(sizes: Sizes, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """A and B."""
    return sizes.normal(sizes.rank, inputs) / inputs**0.5, sizes.normal(outputs, sizes.rank)


def _lora_slots(name: str, lora_a: Tensor, lora_b: Tensor) -> Parameters:
    return {f"{name}.lora_A": lora_a, f"{name}.lora_B": lora_b}
