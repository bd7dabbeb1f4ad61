"""A profile counts what runs: on a GPU its kernels, else torch's operators, from which the same account is made."""

from __future__ import annotations

import kernel_profile
import pytest
import torch
from counts import Work
from device import DEVICE


def test_launches_are_those_of_one_run() -> None:
    x = torch.randn(64, 64, device=DEVICE)
    found = kernel_profile.profiled(lambda: x.tanh().tanh(), Work(macs=5e8))
    name = next(kernel["name"] for kernel in found["kernels"] if "tanh" in kernel["name"])
    launches = {kernel["name"]: kernel["launches"] for kernel in found["kernels"]}
    assert launches[name] == 2
    assert found["gflop"] == 1.0 and found["launches"] == sum(launches.values())
    assert found["kernel_us"] == pytest.approx(sum(kernel["us"] for kernel in found["kernels"]), abs=0.5)
    assert found["time"]["min_ms"] <= found["time"]["median_ms"] <= found["time"]["max_ms"]


def test_the_costliest_comes_first() -> None:
    x = torch.randn(512, 512, device=DEVICE)

    def run() -> None:
        x @ x @ x
        x[:1].tanh()

    times = [kernel["us"] for kernel in kernel_profile.kernels(run, repeats=3)]
    assert times == sorted(times, reverse=True) and times[0] > 0
