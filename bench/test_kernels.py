"""The flow's Triton kernels one by one against plain PyTorch, 16 images of 28 x 28 x 768; for a GPU.

With MOLEFLOW_BENCH_SMALL=1 and TRITON_INTERPRET=1 they also run on a CPU, to see that they do.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backends import products_in
from device import DEVICE, ON_GPU, SMALL, finished
from recording import record

from moleflow_fast.backend import why_not_triton

if (obstacle := why_not_triton(DEVICE)) is not None:
    pytest.skip(obstacle, allow_module_level=True)

from kernel_cases import CASES, PRODUCTS, Sizes  # noqa: E402

CHANNELS, GRID = (32, (2, 6, 6)) if SMALL else (768, (16, 28, 28))
CALLS = 1 if SMALL else 10  # a round; one alone would be as long as its launch
ROUNDS = 1 if SMALL else 10


def _cases() -> list[tuple[str, str, str]]:
    """Those that multiply nothing do the same in fp32 and tf32; bf16 operands are less to move."""
    known = [name for name in ("fp32", "tf32", "bf16") if ON_GPU or name == "fp32"]
    return [
        (name, precision, backend)
        for name in CASES
        for precision in known
        if precision != "tf32" or name in PRODUCTS
        for backend in ("reference", "triton")
    ]


@pytest.mark.parametrize(("name", "precision", "backend"), _cases())
def test_kernel(benchmark: Any, name: str, precision: str, backend: str) -> None:
    torch.manual_seed(0)
    case = CASES[name](Sizes(CHANNELS, GRID, torch.bfloat16 if precision == "bf16" else torch.float32))
    function = case.definition if backend == "reference" else case.kernel
    record(benchmark, f"{name}, {precision}", case.work, precision=precision, calls=CALLS)

    def run() -> None:
        with products_in(precision):
            for _ in range(CALLS):
                function()

    benchmark.pedantic(finished(run), rounds=ROUNDS, warmup_rounds=2)
