"""Single operations: the plain-PyTorch definition against ours, at the baseline's sizes.

Ours is the compiled function on a CPU, the Triton or CUDA kernel on a GPU. An operation lives in one module beside its
definition, `<name>_reference`; to add one is to add a line to OPERATIONS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from counts import FeatureMap, Work, patch_pooling
from device import DEVICE, ON_GPU, SMALL, finished
from published_adamp import AdamP as PublishedAdamP
from recording import record
from torch import Tensor
from workloads import STEP_CASES, make_trainer

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.coupling import base_clamping
from moleflow_fast.ops.mahalanobis import mahalanobis_distances, mahalanobis_distances_reference, stack_gaussians
from moleflow_fast.trainer.optimizer import AdamP

B, H, W, D = (2, 6, 6, 64) if SMALL else (16, 28, 28, 768)
OURS = "kernel" if ON_GPU else "compiled"
CALLS = 10 if ON_GPU and not SMALL else 1  # a round; one alone would be as long as its launch


@dataclass(frozen=True)
class Operation:
    """`inputs` makes the positional arguments; with `backward` the floating tensors among them get gradients.

    `on_gpu` names the backend that has a kernel for a GPU.
    """

    module: str
    name: str
    inputs: Callable[[], tuple]
    options: dict[str, Any] = field(default_factory=dict)
    backward: bool = False
    on_gpu: str | None = None
    work: Work | None = None

    def function(self, suffix: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(f"moleflow_fast.{self.module}"), self.name + suffix)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def _tokens(count: int, width: int = D) -> tuple[Tensor, ...]:
    return tuple(_random(B, H, W, width) for _ in range(count))


def _latent() -> tuple[Tensor, Tensor]:
    return _random(B, H, W, D), _random(B, H, W)


# layer2 and layer3 of WideResNet-50-2
MAPS = [FeatureMap(2 * D // 3, H, W), FeatureMap(4 * D // 3, H // 2, W // 2)]


def _maps() -> tuple[list[Tensor], int, tuple[int, int]]:
    """For 16 images, channels last as they come out of the backbone."""
    maps = [_random(B, m.channels, m.height, m.width) for m in MAPS]
    return [m.to(memory_format=torch.channels_last) for m in maps], D, (H, W)


def _traffic(latents: int, maps: int) -> Work:
    """So many passes over (B, H, W, D) and over (B, H, W), fp32."""
    return Work(0, 4 * B * H * W * (latents * D + maps))


LOSS = {"tail_weight": None, "tail_top_k_ratio": 0.05, "lambda_logdet": 3e-5}

OPERATIONS = (
    Operation("ops.coupling", "affine_coupling", lambda: (*_tokens(3, D // 2), base_clamping(1.9)), backward=True),
    Operation("ops.depthwise", "depthwise", lambda: (*_tokens(1), _random(9, D), _random(D)), backward=True),
    Operation(
        "ops.whitening",
        "whitening",
        lambda: (*_tokens(1), _random(D), _random(D)),
        backward=True,
        on_gpu="triton",
        work=_traffic(latents=5, maps=0),  # x, y; x, dy, dx
    ),
    Operation(
        "ops.lora_linear",
        "lora_linear",
        lambda: (*_tokens(1), *(_random(*s) for s in ((D, D), (D,), (D // 12, D), (D, D // 12))), 1 / 64),
        backward=True,
    ),
    Operation("ops.patch_pool", "patch_pool", _maps, on_gpu="triton", work=patch_pooling(B, MAPS, D)),
    Operation("ops.density", "patch_nll", _latent, on_gpu="triton", work=_traffic(latents=1, maps=2)),
    Operation(
        "ops.density",
        "density_loss",
        _latent,
        LOSS,
        backward=True,
        on_gpu="triton",
        work=_traffic(latents=3, maps=3),  # z, logdet; z, dz, logdet, dlogdet
    ),
    Operation("ops.image_score", "image_score", lambda: (_random(5 * B, H, W), "percentile"), on_gpu="triton"),
    Operation("ops.pixel_map", "pixel_map", lambda: (_random(5 * B, H, W), 8 * H, 4.0), on_gpu="auto"),
    Operation(
        "ops.gaussian_smooth", "gaussian_smooth", lambda: (_random(5 * B, 8 * H, 8 * W), 4.0), on_gpu="auto"
    ),
)


def _ours(operation: Operation) -> str:
    """The backend that runs ours here."""
    return operation.on_gpu or "eager" if ON_GPU else "cpp"


@pytest.mark.parametrize("backend", ["reference", OURS])
@pytest.mark.parametrize("operation", [op for op in OPERATIONS if op.on_gpu or not ON_GPU], ids=lambda op: op.name)
def test_operation(benchmark: Any, operation: Operation, backend: str) -> None:
    torch.manual_seed(0)
    function = operation.function("_reference" if backend == "reference" else "")
    inputs = operation.inputs()
    passes = "forward and backward" if operation.backward else "forward"
    record(benchmark, f"{operation.name}, {passes}", operation.work if ON_GPU else None, calls=CALLS)
    leaves = [x.requires_grad_() for x in inputs if isinstance(x, Tensor)] if operation.backward else []

    def call() -> None:
        result = function(*inputs, **operation.options)
        if operation.backward:
            results = result if isinstance(result, tuple) else (result,)
            torch.autograd.grad(sum(r.sum() for r in results), leaves)

    def run() -> None:
        with use_backend("eager" if backend == "reference" else _ours(operation)):
            for _ in range(CALLS):
                call()

    benchmark.pedantic(finished(run), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("backend", ["reference", OURS])
@pytest.mark.parametrize("images", [1, 16])
def test_mahalanobis(benchmark: Any, images: int, backend: str) -> None:
    """Image features to the prototypes of 15 tasks; ours is one batched product over their factors."""
    torch.manual_seed(0)
    means = [_random(D) for _ in range(15)]
    precisions = [torch.linalg.inv(torch.cov(_random(2 * D, D).T)) for _ in means]
    stack = stack_gaussians(means, precisions)
    features = _random(images, D)
    record(benchmark, f"Mahalanobis distances to 15 prototypes, {images} image{'s' * (images > 1)}")
    reference = backend == "reference"
    function = mahalanobis_distances_reference if reference else mahalanobis_distances
    arguments = (features, means, precisions) if reference else (features, stack)
    benchmark.pedantic(finished(function), arguments, rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("backend", ["reference", OURS])
@pytest.mark.parametrize("case", ["first task, 28x28", "later task, 28x28"])
def test_optimizer(benchmark: Any, case: str, backend: str) -> None:
    """Clipping and AdamP over the parameters of a task; the reference is the package `adamp`."""
    if ON_GPU:
        pytest.skip("on a GPU the optimizer is part of the captured training step")
    task_id = STEP_CASES[case].task_id
    params = make_trainer(STEP_CASES[case].flow, task_id + 1).nf_model.get_trainable_params(task_id)
    for parameter in params:
        parameter.grad = torch.randn_like(parameter)
    make = PublishedAdamP if backend == "reference" else AdamP
    stepper = make(params, lr=2e-4, weight_decay=0.01)
    record(benchmark, f"clipping and AdamP, {case.partition(',')[0]}: {sum(p.numel() for p in params) / 1e6:.1f} M")

    def run() -> None:
        if backend == "reference":
            torch.nn.utils.clip_grad_norm_(params, 0.5)
            stepper.step()
        else:
            stepper.step(max_norm=0.5)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
