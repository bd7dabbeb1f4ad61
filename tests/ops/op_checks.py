"""Checks that every differentiable operation must pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.backend import use_backend


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


@contextmanager
def torch_threads(count: int) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
