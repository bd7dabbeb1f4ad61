"""The peak that is reported is that of the step alone."""

from __future__ import annotations

from pathlib import Path

import peak_memory
import pytest
import torch

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def touch(mib: int) -> None:
    torch.ones(mib * 2**18)


def test_sees_what_was_given_back_but_not_what_came_before() -> None:
    touch(400)
    peak_memory._settle()
    before = peak_memory._mib("VmRSS")
    touch(200)
    assert peak_memory._mib("VmHWM") - before == pytest.approx(200, abs=20)
