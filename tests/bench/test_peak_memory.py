"""The peak that is reported is that of the step alone."""

from __future__ import annotations

from pathlib import Path

import peak_memory
import pytest
import torch

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def touch(mib: int) -> None:
    torch.ones(mib * 2**18)


@needs_proc
def test_sees_what_was_given_back_but_not_what_came_before() -> None:
    touch(400)
    peak_memory._settle()
    before = peak_memory._mib("VmRSS")
    touch(200)
    assert peak_memory._mib("VmHWM") - before == pytest.approx(200, abs=20)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_takes_at_most_half_of_the_published_memory() -> None:
    from workloads import STEP_CASES, TrainingSteps

    case = STEP_CASES["later task, 28x28"]
    patches = case.patches()
    peaks = {name: peak_memory.device_peak_mib(TrainingSteps(case, name), patches) for name in ("published", "triton")}
    assert peaks["triton"] <= peaks["published"] / 2, peaks
