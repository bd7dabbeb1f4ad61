"""One optimizer step: WideResNet-50-2 width (D = 768), 8 coupling blocks, 4 DIA blocks, rank 64, random features.

All but `published` run the trainer's own step. Peak memory is that of the step alone, see peak_memory.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backends import pairs, precision, skip_unless_runnable
from device import ON_GPU
from peak_memory import device_peak_mib, step_peak_mib
from recording import record
from workloads import STEP_CASES, TrainingSteps

THOROUGH = ("later task, 28x28",)
ROUNDS = 10 if ON_GPU else 3


@pytest.mark.parametrize(("case", "backend"), pairs(STEP_CASES, THOROUGH))
def test_training_step(benchmark: Any, case: str, backend: str) -> None:
    skip_unless_runnable(backend)
    torch.manual_seed(0)
    sizes = STEP_CASES[case]
    patches, steps = sizes.patches(), TrainingSteps(sizes, backend)
    peak = device_peak_mib(steps, patches) if ON_GPU else step_peak_mib(case, backend)
    group = f"training step, {case}, {sizes.images} images"
    record(benchmark, group, sizes.work(backend), peak_mib=peak, precision=precision(backend))
    slow = backend.startswith("published")  # its statistics of the first task take a second a step on a GPU
    benchmark.pedantic(steps, (patches,), rounds=3 if slow else ROUNDS, warmup_rounds=1)
    counted, skipped = steps.count()
    assert counted and not skipped
