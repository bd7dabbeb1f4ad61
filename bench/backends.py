"""The ways to run one subject, and whether they can run here.

A backend is named after an arrangement and the precision of its matrix products, which is fp32 where none is named:
`triton-bf16`. Ratios mean something at equal precision.

published: bench/published.py. eager: our plain PyTorch. compile: that under torch.compile. cpp: our compiled part.
triton: our kernels for a GPU; a training step is one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from device import DEVICE, ON_GPU
from torch import Tensor

from moleflow_fast.backend import use_backend, use_precision

ON_CPU_BACKENDS = ("published", "eager", "compile", "cpp")
ON_GPU_BACKENDS = (
    *("published", "published-tf32", "published-bf16"),
    "eager",
    *("compile", "compile-bf16"),
    *("triton", "triton-tf32", "triton-bf16"),
)
_THOROUGH = ("published-tf32", "published-bf16", "compile", "compile-bf16")
BACKENDS = ON_GPU_BACKENDS if ON_GPU else ON_CPU_BACKENDS
FlowMap = Callable[..., tuple[Tensor, Tensor]]


def arrangement(backend: str) -> str:
    return backend.partition("-")[0]


def precision(backend: str) -> str:
    """fp32, tf32 or bf16."""
    return backend.partition("-")[2] or "fp32"


def pairs(cases: Iterable[Any], thorough: Iterable[Any]) -> list[tuple[Any, str]]:
    """(case, backend) for the backends of a case, one after another; all of them only for the `thorough` cases.

    The others do without torch.compile, which takes one to two minutes for a training step and as long again for each
    further shape, and without lower precisions of anything but ours.
    """
    chosen = set(thorough)
    return [(case, name) for case in cases for name in BACKENDS if case in chosen or name not in _THOROUGH]


@contextmanager
def running(backend: str) -> Iterator[None]:
    """Ours in the block runs as `backend` says, and products of fp32 operands at its precision."""
    kind = arrangement(backend)
    operands = "bf16" if backend == "triton-bf16" else "fp32"
    with (
        use_backend(kind if kind in ("cpp", "triton") else "eager"),
        use_precision(operands),
        products_in(precision(backend)),
    ):
        yield


@contextmanager
def products_in(name: str) -> Iterator[None]:
    """Whether products and convolutions of fp32 operands may run in tf32.

    Under bf16 convolutions may: the published backbone is not in bf16, and tf32 is torch's default for them.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = name == "tf32", name != "fp32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def arranged(function: FlowMap, backend: str) -> FlowMap:
    """The flow's map x -> (z, logdet) compiled by torch or under autocast, where `backend` says so.

    Our kernels take their precision from `running`; what follows the flow is fp32 for all.
    """
    if arrangement(backend) == "compile":
        torch._dynamo.reset()  # shapes and models of earlier benchmarks count towards its limit of recompilations
        function = torch.compile(function)
    if precision(backend) == "bf16" and arrangement(backend) != "triton":
        return _under_autocast(function)
    return function


def _under_autocast(function: FlowMap) -> FlowMap:
    def run(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        with torch.autocast(DEVICE, torch.bfloat16):
            z, logdet = function(*args, **options)
        return z.float(), logdet.float()

    return run


def skip_unless_runnable(backend: str) -> None:
    if arrangement(backend) == "compile" and (obstacle := compile_obstacle()):
        pytest.skip(f"torch.compile does not work here: {obstacle}")


@cache
def compile_obstacle() -> str | None:
    """Why torch.compile cannot run here (most often: no C++ compiler), None if it can."""
    try:
        torch.compile(lambda x: torch.tanh(x) + 1)(torch.randn(1000, device=DEVICE))
    except Exception as error:  # inductor raises many kinds; any of them means the same here
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None
