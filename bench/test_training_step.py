"""One optimizer step: WideResNet-50-2 width (D = 768), 8 coupling blocks, 4 DIA blocks, rank 64, random features.

`eager`, `compile` and `cpp` run the trainer's own step. Peak memory is that of the step alone, see peak_memory.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from backends import pairs, skip_unless_runnable
from peak_memory import step_peak_mib
from recording import record
from workloads import STEP_CASES, training_step

COMPILED = ("later task, 28x28",)


@pytest.mark.parametrize(("case", "backend"), pairs(STEP_CASES, COMPILED))
def test_training_step(benchmark: Any, case: str, backend: str) -> None:
    skip_unless_runnable(backend)
    torch.manual_seed(0)
    sizes = STEP_CASES[case]
    patches, step = sizes.patches(), training_step(sizes, backend)
    group = f"training step, {case}, {sizes.images} images"
    record(benchmark, group, sizes.work, peak_mib=step_peak_mib(case, backend))
    loss = benchmark.pedantic(step, (patches,), rounds=3, warmup_rounds=1)
    assert math.isfinite(loss)
