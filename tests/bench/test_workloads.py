"""Every backend's training step on a tiny flow; that of a GPU's backends too, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from backends import ON_CPU_BACKENDS, ON_GPU_BACKENDS, precision, products_in, running
from counts import Flow
from device import ON_GPU
from workloads import StepCase, TrainingSteps

from moleflow_fast.backend import requested_backend, requested_precision
from moleflow_fast.engine.training import DeviceSteps

FLOW = Flow(16, blocks=1, dia_blocks=1, rank=4)
DIA_ONLY = Flow(16, blocks=0, dia_blocks=2, rank=4)
BACKENDS = sorted({*ON_GPU_BACKENDS, *(() if ON_GPU else ON_CPU_BACKENDS)})
HERE = [  # torch.compile takes a minute, and the interpreter multiplies the raw bits of bf16
    name for name in BACKENDS if not name.startswith("compile") and (ON_GPU or name != "triton-bf16")
]


@pytest.mark.parametrize(("task_id", "flow"), [(0, FLOW), (1, FLOW), (1, DIA_ONLY)])
@pytest.mark.parametrize("backend", HERE)
def test_steps(backend: str, task_id: int, flow: Flow) -> None:
    if backend.startswith("triton"):
        pytest.importorskip("triton")
    case = StepCase("tiny", 1, 3, task_id, flow)
    steps = TrainingSteps(case, backend)
    before = [p.detach().clone() for p in steps._params]
    steps(case.patches())
    steps.begin_again()
    assert all(p.grad is None for p in steps._params)
    steps(case.patches())
    assert isinstance(steps._stage.steps, DeviceSteps) == backend.startswith("triton")
    assert steps.count() == (1, 0)
    assert any(not torch.equal(a, b) for a, b in zip(before, steps._params, strict=True))


@pytest.mark.parametrize("backend", ["published", "published-bf16", "triton"])
def test_every_backend_takes_the_same_steps(backend: str) -> None:
    if backend.startswith("triton"):
        pytest.importorskip("triton")
    case = StepCase("tiny", 2, 3, 1, FLOW)
    torch.manual_seed(0)
    patches, expected, steps = case.patches(), TrainingSteps(case, "eager"), TrainingSteps(case, backend)
    tolerance = 1e-2 if precision(backend) == "bf16" else 1e-5
    losses = []
    for other in (expected, steps):
        other(patches)
        losses.append(other._stage.steps.finish()[0])
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


def test_a_gpu_backend_says_what_it_runs() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    seen = {}
    for backend in ON_GPU_BACKENDS:
        with running(backend):
            seen[backend] = requested_backend(), requested_precision(), matmul.allow_tf32
    assert seen["published-tf32"] == ("eager", "fp32", True)
    assert seen["compile-bf16"] == ("eager", "fp32", False)
    assert seen["triton"] == ("triton", "fp32", False)
    assert seen["triton-tf32"] == ("triton", "fp32", True)
    assert seen["triton-bf16"] == ("triton", "bf16", False)
    assert (matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    assert {precision(name) for name in ON_CPU_BACKENDS} == {"fp32"}


def test_an_error_restores_the_precision() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(RuntimeError), products_in("tf32"):
        raise RuntimeError
    assert torch.backends.cuda.matmul.allow_tf32 == before
