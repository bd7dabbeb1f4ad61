"""Checks that every differentiable operation must pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.coupling import Clamping, coupling, coupling_backward


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def results_and_gradients(function: Callable[..., Any], inputs: list[Tensor], backend: str) -> list[Tensor]:
    """Results of `function`, then the gradients of a fixed combination of them with respect to every input."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_(True) for t in inputs]
    with use_backend(backend):
        outputs = function(*leaves)
        outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
        loss = sum((o * random(*o.shape, dtype=o.dtype, seed=7)).sum() for o in outputs)
        gradients = torch.autograd.grad(loss, leaves)
    return [*(o.detach() for o in outputs), *gradients]


def assert_backends_agree(function: Callable[..., Any], inputs: list[Tensor]) -> None:
    """Compiled against the plain definition in fp64: 1e-12, and in fp32 2e-6 of the largest value.

    Where rounding alone costs the definition more than that in fp32, the bound is four times its own error.
    """
    expected = results_and_gradients(function, inputs, "eager")
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        rounded = [t.to(dtype) for t in inputs]
        plain = results_and_gradients(function, rounded, "eager")
        actual = results_and_gradients(function, rounded, "cpp")
        for a, p, e in zip(actual, plain, expected, strict=True):
            assert a.shape == e.shape
            allowed = max(bound, bound * _largest(e), 4 * _largest(p.double() - e))
            assert _largest(a.double() - e) <= allowed, (dtype, _largest(a.double() - e), allowed)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def assert_sound_operator(operator: Any, arguments: tuple[Any, ...]) -> None:
    """Schema, fake kernel and autograd registration hold."""
    torch.library.opcheck(operator, arguments)


def coupled(
    s: Tensor, t: Tensor, biases: tuple[Tensor | None, Tensor | None], x2: Tensor, clamping: Clamping
) -> tuple[Tensor, Tensor]:
    """y2 and logdet of the compiled coupling."""
    y2, logdet = x2.new_empty(x2.shape), x2.new_zeros(len(x2))
    coupling(s, t, biases, x2, y2, logdet, clamping)
    return y2, logdet


def coupled_gradients(
    s: Tensor, s_bias: Tensor | None, x2: Tensor, dy2: Tensor, dlogdet: Tensor, clamping: Clamping
) -> tuple[Tensor, ...]:
    """Its gradients of x2, s, t and the biases of s and t."""
    dx2, ds, dt, sums = dy2.clone(), torch.empty_like(dy2), torch.empty_like(dy2), x2.new_zeros(2, x2.shape[1])
    coupling_backward(s, s_bias, x2, dx2, dlogdet, ds, dt, (sums[0], sums[1]), clamping)
    return dx2, ds, dt, sums[0], sums[1]


@contextmanager
def torch_threads(count: int) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
