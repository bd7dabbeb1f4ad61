"""Single operations: the plain-PyTorch definition against ours, at the baseline's sizes.

Ours is the compiled function on a CPU, the Triton kernel on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from counts import Work, adamp, gaussian_front, mahalanobis
from device import DEVICE, ON_GPU, SMALL, finished
from operations import BATCH, OPERATIONS, PROTOTYPES, Operation, Shape, distances_title, optimizer_title
from published_adamp import AdamP as PublishedAdamP
from recording import record
from workloads import STEP_CASES, make_trainer

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.gaussian_front import FrontsByTask, FrontTensors, gaussian_front_by_task_reference
from moleflow_fast.ops.mahalanobis import mahalanobis_distances, mahalanobis_distances_reference, stack_gaussians
from moleflow_fast.trainer.optimizer import AdamP

SHAPE = Shape(2, 6, 6, 64) if SMALL else BATCH
OURS = "kernel" if ON_GPU else "compiled"
CALLS = 10 if ON_GPU and not SMALL else 1  # a round; one alone would be as long as its launch
MAX_NORM = 0.5


def _floor(work: Work) -> Work | None:
    """A CPU's caches make a floor of traffic meaningless for what takes a millisecond."""
    return work if ON_GPU else None


@pytest.mark.parametrize("backend", ["reference", OURS])
@pytest.mark.parametrize("operation", [op for op in OPERATIONS if op.on_gpu or not ON_GPU], ids=lambda op: op.title)
def test_operation(benchmark: Any, operation: Operation, backend: str) -> None:
    torch.manual_seed(0)
    record(benchmark, operation.title, _floor(operation.work(SHAPE)), calls=CALLS)
    if backend == "reference":
        call = operation.caller(SHAPE, "eager", "_reference")
    else:
        call = operation.caller(SHAPE, "triton" if ON_GPU else "cpp")
    benchmark.pedantic(finished(_repeated(call)), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("backend", ["reference", OURS])
@pytest.mark.parametrize("images", [1, 16])
def test_mahalanobis(benchmark: Any, images: int, backend: str) -> None:
    """Image features to the prototypes of 15 tasks; ours is one batched product over their factors."""
    torch.manual_seed(0)
    dim = SHAPE.dim
    features, means = torch.randn(images, dim, device=DEVICE), list(torch.randn(PROTOTYPES, dim, device=DEVICE))
    precisions = [torch.linalg.inv(torch.cov(torch.randn(2 * dim, dim, device=DEVICE).T)) for _ in means]
    stack = stack_gaussians(means, precisions)
    record(benchmark, distances_title(images), _floor(mahalanobis(images, PROTOTYPES, dim)), calls=CALLS)

    def call() -> object:
        if backend == "reference":
            return mahalanobis_distances_reference(features, means, precisions)
        with use_backend("triton" if ON_GPU else "auto"):
            return mahalanobis_distances(features, stack)

    benchmark.pedantic(finished(_repeated(call)), rounds=20, warmup_rounds=2)


@pytest.mark.skipif(not ON_GPU, reason="on a CPU the definition is what runs")
@pytest.mark.parametrize("backend", ["reference", OURS])
@pytest.mark.parametrize("dim", [256, 768])
@pytest.mark.parametrize(("images", "tasks"), [(16, 1), (16, 15), (256, 15)])
def test_gaussian_front(benchmark: Any, images: int, tasks: int, dim: int, backend: str) -> None:
    """Images through the fronts of their tasks; the reference takes one image after another."""
    torch.manual_seed(0)
    height, width, k = SHAPE.height, SHAPE.width, 32
    fronts = [_front(height, width, k, dim) for _ in range(tasks)]
    x, positions = (torch.randn(*n, height, width, dim, device=DEVICE) for n in ((images,), ()))
    chosen, by_task = torch.arange(images, dtype=torch.int32, device=DEVICE) % tasks, FrontsByTask(fronts)
    title = f"Gaussian fronts of {tasks} tasks, {images} images, {dim} channels"
    record(benchmark, title, gaussian_front(images, tasks, height * width, k, dim), calls=CALLS)

    def call() -> object:
        if backend == "reference":
            return gaussian_front_by_task_reference(x, fronts, chosen, positions)
        with use_backend("triton"):
            return by_task(x, chosen, positions)

    benchmark.pedantic(finished(_repeated(call)), rounds=5, warmup_rounds=1)


def _front(height: int, width: int, directions: int, dim: int) -> FrontTensors:
    random = partial(torch.randn, device=DEVICE)
    whitener, along = random(dim, dim).tril(), random(height, width, directions, dim) / dim**0.5
    gain, scale = random(height, width, directions).abs(), random(height, width).abs()
    return FrontTensors(random(height, width, dim), whitener, along, gain, scale)


@pytest.mark.parametrize("backend", ["reference", OURS])
@pytest.mark.parametrize("case", ["first task, 28x28", "later task, 28x28"])
def test_optimizer(benchmark: Any, case: str, backend: str) -> None:
    """Clipping and AdamP over the parameters of a task; the reference is the package `adamp`."""
    task_id = STEP_CASES[case].task_id
    params = make_trainer(STEP_CASES[case].flow, task_id + 1).nf_model.get_trainable_params(task_id)
    for parameter in params:
        parameter.grad = torch.randn_like(parameter)
    count = sum(p.numel() for p in params)
    record(benchmark, optimizer_title(task_id, count), _floor(adamp(count)), calls=CALLS)
    step = _published_step(params) if backend == "reference" else _own_step(params)
    benchmark.pedantic(finished(_repeated(step)), rounds=5, warmup_rounds=1)


def _published_step(params: list[torch.nn.Parameter]) -> Callable[[], object]:
    optimizer = PublishedAdamP(params, lr=2e-4, weight_decay=0.01)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    return step


def _own_step(params: list[torch.nn.Parameter]) -> Callable[[], object]:
    """On a GPU the launches of a captured training step."""
    optimizer = AdamP(params, lr=2e-4, weight_decay=0.01)
    if not ON_GPU:
        return lambda: optimizer.step(max_norm=MAX_NORM)
    from moleflow_fast.kernels.adamp import DeviceAdamP  # it needs Triton, which a CPU does not

    return DeviceAdamP(optimizer.with_state(), MAX_NORM).step


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            call()

    return run
