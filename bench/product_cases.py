"""The products of base blocks and of the task flow, with what their kernels do on the way; see `kernel_cases`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from cases import CLAMP, TASKS, Case, Sizes, moved
from counts import Work
from torch import Tensor

from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.coupling import coupling_product, logdet_tiles
from moleflow_fast.kernels.products import relu_gradient_product, relu_product, sum_tiles
from moleflow_fast.ops.coupling import Clamping, base_clamping, task_clamping

Networks = Sequence[tuple[Tensor, Tensor]]  # weight and input of each


def hidden_layer(sizes: Sizes) -> Case:
    """relu(W x + b) of both networks; the shift network reads the driving half alone, the other its context too."""
    h, driver = sizes.hidden, sizes.driver
    weight, bias, x = sizes.weight(2 * h, 2 * driver), sizes.normal(2 * h), sizes.operand(2 * driver)
    out, networks = sizes.operand(2 * h), _with_context(weight, x)

    def kernel() -> tuple[Tensor, ...]:
        return (relu_product(weight, bias, x, out, (2 * driver, driver)),)

    return Case(kernel, lambda: (_relu_of(networks, bias),), _work(networks, x, bias, out))


def hidden_layer_by_image(sizes: Sizes) -> Case:
    """The same with the weights of each image's own task."""
    h, driver, images = sizes.hidden, sizes.driver, len(sizes.tasks)
    weight, bias = sizes.weight(TASKS, 2 * h, 2 * driver), sizes.normal(TASKS, 2 * h)
    x, out, tasks = sizes.operand(2 * driver), sizes.operand(2 * h), _chosen(sizes)

    def kernel() -> tuple[Tensor, ...]:
        return (relu_product(weight, bias, x, out, (2 * driver, driver), tasks=tasks),)

    def definition() -> tuple[Tensor, ...]:
        pairs = zip(sizes.tasks, x.chunk(images, dim=1), strict=True)
        return (torch.cat([_relu_of(_with_context(weight[t], own), bias[t]) for t, own in pairs], dim=1),)

    read = [w for t in set(sizes.tasks) for w, _ in _with_context(weight[t], x)]
    macs = sum(w.numel() * own.shape[1] for w, own in _with_context(weight[0], x))
    return Case(kernel, definition, Work(macs, moved(*read, bias[: len(set(sizes.tasks))], x, out)))


def task_first_layer(sizes: Sizes) -> Case:
    """relu(W x + b) of the task flow: both networks read the same, so they are one of twice the units."""
    weight, bias = sizes.weight(2 * sizes.units, sizes.driver), sizes.normal(2 * sizes.units)
    x, out = sizes.operand(sizes.driver), sizes.operand(2 * sizes.units)
    networks = [(weight, x)]
    return Case(
        lambda: (relu_product(weight, bias, x, out),),
        lambda: (_relu_of(networks, bias),),
        _work(networks, x, bias, out),
    )


def task_middle_layer(sizes: Sizes) -> Case:
    """relu(W x + b) of both networks of the task flow, each of its own hidden layer."""
    units = sizes.units
    weight, bias = sizes.weight(2 * units, units), sizes.normal(2 * units)
    x, out = sizes.operand(2 * units), sizes.operand(2 * units)
    networks = list(zip(weight.split(units), x.split(units), strict=True))

    def kernel() -> tuple[Tensor, ...]:
        return (relu_product(weight, bias, x, out, (units, units), first_row=units),)

    return Case(kernel, lambda: (_relu_of(networks, bias),), _work(networks, x, bias, out))


def hidden_gradient(sizes: Sizes) -> Case:
    """W^T dy where the ReLU let through, of both networks, and its sums over tokens."""
    return _hidden_gradient(sizes, sizes.hidden)


def task_hidden_gradient(sizes: Sizes) -> Case:
    """The same in the task flow, whose middle and last layers are of one shape."""
    return _hidden_gradient(sizes, sizes.units)


def coupling(sizes: Sizes) -> Case:
    """[s; t] = W h + b and the coupling of the driven rows, with s and x2 kept for the backward pass."""
    return _coupling(sizes, sizes.hidden, base_clamping(CLAMP), keep=True)


def coupling_without_backward(sizes: Sizes) -> Case:
    return _coupling(sizes, sizes.hidden, base_clamping(CLAMP), keep=False)


def coupling_by_image(sizes: Sizes) -> Case:
    """With the weights of each image's own task; only inference mixes tasks."""
    return _coupling(sizes, sizes.hidden, base_clamping(CLAMP), keep=False, by_image=True)


def task_coupling(sizes: Sizes) -> Case:
    return _coupling(sizes, sizes.units, task_clamping(CLAMP), keep=True)


CASES: dict[str, Callable[[Sizes], Case]] = {
    "relu_product": hidden_layer,
    "relu_product by image": hidden_layer_by_image,
    "relu_product, task flow, first": task_first_layer,
    "relu_product, task flow, middle": task_middle_layer,
    "coupling_product": coupling,
    "coupling_product, nothing kept": coupling_without_backward,
    "coupling_product by image": coupling_by_image,
    "coupling_product, task flow": task_coupling,
    "relu_gradient_product": hidden_gradient,
    "relu_gradient_product, task flow": task_hidden_gradient,
}


def _coupling(sizes: Sizes, inner: int, clamping: Clamping, keep: bool, by_image: bool = False) -> Case:
    half, shape = sizes.driven, (TASKS,) if by_image else ()
    weight, bias = sizes.weight(*shape, 2 * half, inner), sizes.normal(*shape, 2 * half)
    hidden, state = sizes.operand(2 * inner), sizes.state(sizes.channels)
    rows, pending, affine = sizes.driven_rows, sizes.affine(sizes.channels), sizes.affine(half)
    partial = channel_major(logdet_tiles(half, sizes.tokens, sizes.dtype), sizes.tokens, state)
    kept = (sizes.operand(half), sizes.operand(half)) if keep else None
    tasks = _chosen(sizes) if by_image else None
    plain, at = state.clone(), rows.long()

    def kernel() -> tuple[Tensor, ...]:
        both = (hidden[:inner], hidden[inner:])
        coupling_product(weight, bias, both, state, rows, pending, affine, partial, clamping, kept, tasks)
        return state, partial.sum(0), *(kept or ())

    def definition() -> tuple[Tensor, ...]:
        s, t = _outputs_by_image(sizes, weight, bias, hidden) if by_image else _outputs(weight, bias, hidden)
        x2 = plain[at] * pending[at, :1] + pending[at, 1:]
        log_scale = clamping.clamp * torch.tanh(clamping.s_factor * s)
        y2 = x2 * log_scale.exp() + clamping.t_factor * t
        plain[at] = y2 * affine[:, :1] + affine[:, 1:]
        return plain, log_scale.sum(0), *((s, x2) if keep else ())

    read = (weight[: len(set(sizes.tasks))], bias[: len(set(sizes.tasks))]) if by_image else (weight, bias)
    x2_and_y2 = 2 * moved(state[:half])
    work = Work(sizes.tokens * 2 * half * inner, moved(*read, hidden, partial[0], *(kept or ())) + x2_and_y2)
    return Case(kernel, definition, work)


def _hidden_gradient(sizes: Sizes, units: int) -> Case:
    half = sizes.driven
    weight, dy, hidden = sizes.weight(2 * half, units), sizes.operand(2 * half), sizes.operand(2 * units)
    out, sums = sizes.operand(2 * units), sizes.normal(sum_tiles(sizes.tokens), 2 * units)

    def kernel() -> tuple[Tensor, ...]:
        written = relu_gradient_product(weight, dy, hidden, out, 2, sums)
        return out, sums[:written].sum(0)

    def definition() -> tuple[Tensor, ...]:
        products = [w.T @ own for w, own in zip(weight.split(half), dy.split(half), strict=True)]
        gradient = torch.cat(products).masked_fill_(hidden <= 0, 0)
        return gradient, gradient.sum(1, dtype=torch.float32)

    work = Work(sizes.tokens * 2 * half * units, moved(weight, dy, hidden, out, sums[0]))
    return Case(kernel, definition, work)


def _with_context(weight: Tensor, x: Tensor) -> Networks:
    """The scale network, which reads all of x, and the shift network, which reads the first half."""
    h, driver = weight.shape[0] // 2, x.shape[0] // 2
    return [(weight[:h], x), (weight[h:, :driver], x[:driver])]


def _relu_of(networks: Networks, bias: Tensor) -> Tensor:
    """The networks' outputs below each other."""
    biases = bias[:, None].split([len(weight) for weight, _ in networks])
    parts = zip(biases, networks, strict=True)
    return torch.cat([torch.addmm(own.to(x), weight, x) for own, (weight, x) in parts]).relu_()


def _outputs(weight: Tensor, bias: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """s and t, fp32."""
    parts = zip(weight.chunk(2), bias.chunk(2), hidden.chunk(2), strict=True)
    s, t = ((w @ h).float() + b[:, None] for w, b, h in parts)
    return s, t


def _outputs_by_image(sizes: Sizes, weight: Tensor, bias: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    images = zip(sizes.tasks, hidden.chunk(len(sizes.tasks), dim=1), strict=True)
    s, t = zip(*(_outputs(weight[task], bias[task], own) for task, own in images), strict=True)
    return torch.cat(s, dim=1), torch.cat(t, dim=1)


def _work(networks: Networks, *others: Tensor) -> Work:
    """Of products; what the networks read may be one tensor, so it is among the others."""
    macs = sum(weight.numel() * x.shape[1] for weight, x in networks)
    return Work(macs, moved(*(weight for weight, _ in networks), *others))


def _chosen(sizes: Sizes) -> Tensor:
    return torch.tensor(sizes.tasks, dtype=torch.int32, device=sizes.device)
