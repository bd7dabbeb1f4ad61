"""Triton kernels beside definitions in fp64: on a GPU where there is one, else in Triton's interpreter."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moleflow_fast.backend import use_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUND = 2e-6  # fp32 against fp64, of a tensor's largest value
FLOOR = 1e-6  # operands are about 1: where the definition cancels to 0, a fused multiply-add leaves its rounding


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE)


def on_triton(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with use_backend("triton"):
        return function(*arguments, **options)


def results_and_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
    """The result of `function`, then the gradients of a fixed combination of it by every input."""
    leaves = [t.detach().clone().requires_grad_(True) for t in inputs]
    with use_backend(backend):
        result = function(*leaves)
        if backend == "triton":
            assert "moleflow" in type(result.grad_fn).__name__
        gradients = torch.autograd.grad((result * random(*result.shape, seed=7).to(result)).sum(), leaves)
    return [result.detach(), *gradients]


def assert_near_definition(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """Result and gradients within `BOUND` of fp64, or within four times what fp32 costs the definition."""
    exact = results_and_gradients(function, [t.double() for t in inputs], "eager")
    plain = results_and_gradients(function, inputs, "eager")
    for a, p, e in zip(results_and_gradients(function, inputs, "triton"), plain, exact, strict=True):
        assert a.dtype == torch.float32 and a.shape == e.shape
        assert _largest(a - e) <= max(BOUND * _largest(e), 4 * _largest(p - e), FLOOR)


def assert_same_bits_twice(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    first, second = (results_and_gradients(function, inputs, "triton") for _ in range(2))
    assert all(map(torch.equal, first, second))


def _largest(tensor: Tensor) -> float:
    assert tensor.isfinite().all()
    return float(tensor.abs().max())


def gaussians(tasks: int, dim: int, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    roots = random(tasks, dim, dim, seed=seed) / dim**0.5
    precisions = roots @ roots.mT + 0.1 * torch.eye(dim, device=DEVICE)
    return list(random(tasks, dim, seed=seed + 1)), list(precisions)


class _NoScalarReads(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket._qualified_op_name != "aten::_local_scalar_dense", "a host read"
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_host_reads() -> Iterator[None]:
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with _NoScalarReads():
            yield
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")
