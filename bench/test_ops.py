"""Single operations: the plain-PyTorch definition against the compiled function, at the baseline's sizes.

An operation lives in one module beside its definition, `<name>_reference`; to add one is to add a line to OPERATIONS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import adamp
import pytest
import torch
from recording import record
from torch import Tensor
from workloads import SMALL, STEP_CASES, make_trainer

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.coupling import base_clamping
from moleflow_fast.ops.mahalanobis import mahalanobis_distances, mahalanobis_distances_reference, stack_gaussians
from moleflow_fast.trainer.optimizer import AdamP

B, H, W, D = (2, 6, 6, 64) if SMALL else (16, 28, 28, 768)


@dataclass(frozen=True)
class Operation:
    """`inputs` makes the positional arguments; with `backward` the floating tensors among them get gradients."""

    module: str
    name: str
    inputs: Callable[[], tuple]
    options: dict[str, Any] = field(default_factory=dict)
    backward: bool = False

    def function(self, suffix: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(f"moleflow_fast.{self.module}"), self.name + suffix)


def _latent() -> tuple[Tensor, Tensor]:
    return torch.randn(B, H, W, D), torch.randn(B, H, W)


def _maps() -> tuple[list[Tensor], int, tuple[int, int]]:
    """layer2 and layer3 of WideResNet-50-2 for 16 images, channels last as they come out of the backbone."""
    shapes = [(B, 2 * D // 3, H, W), (B, 4 * D // 3, H // 2, W // 2)]
    return [torch.randn(s).to(memory_format=torch.channels_last) for s in shapes], D, (H, W)


LOSS = {"tail_weight": None, "tail_top_k_ratio": 0.05, "lambda_logdet": 3e-5}
def _tokens(count: int, width: int = D) -> tuple[Tensor, ...]:
    return tuple(torch.randn(B, H, W, width) for _ in range(count))


OPERATIONS = (
    Operation(
        "ops.coupling", "affine_coupling", lambda: (*_tokens(3, D // 2), base_clamping(1.9)), backward=True
    ),
    Operation("ops.depthwise", "depthwise", lambda: (*_tokens(1), torch.randn(9, D), torch.randn(D)), backward=True),
    Operation("ops.whitening", "whitening", lambda: (*_tokens(1), torch.randn(D), torch.randn(D)), backward=True),
    Operation(
        "ops.lora_linear",
        "lora_linear",
        lambda: (*_tokens(1), *(torch.randn(s) for s in ((D, D), (D,), (D // 12, D), (D, D // 12))), 1 / 64),
        backward=True,
    ),
    Operation("ops.patch_pool", "patch_pool", _maps),
    Operation("ops.density", "patch_nll", _latent),
    Operation("ops.density", "density_loss", _latent, LOSS, backward=True),
    Operation("ops.image_score", "image_score", lambda: (torch.randn(5 * B, H, W), "percentile")),
    Operation("ops.pixel_map", "pixel_map", lambda: (torch.randn(5 * B, H, W), 8 * H, 4.0)),
    Operation("ops.gaussian_smooth", "gaussian_smooth", lambda: (torch.randn(5 * B, 8 * H, 8 * W), 4.0)),
)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.name)
def test_operation(benchmark: Any, operation: Operation, backend: str) -> None:
    torch.manual_seed(0)
    function = operation.function("_reference" if backend == "reference" else "")
    inputs = operation.inputs()
    passes = "forward and backward" if operation.backward else "forward"
    record(benchmark, f"{operation.name}, {passes}")
    leaves = [x.requires_grad_() for x in inputs if isinstance(x, Tensor)] if operation.backward else []

    def run() -> None:
        with use_backend("eager" if backend == "reference" else "cpp"):
            result = function(*inputs, **operation.options)
            if operation.backward:
                results = result if isinstance(result, tuple) else (result,)
                torch.autograd.grad(sum(r.sum() for r in results), leaves)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("images", [1, 16])
def test_mahalanobis(benchmark: Any, images: int, backend: str) -> None:
    """Image features to the prototypes of 15 tasks; "compiled" is one batched product over their factors."""
    torch.manual_seed(0)
    means = [torch.randn(D) for _ in range(15)]
    precisions = [torch.linalg.inv(torch.cov(torch.randn(2 * D, D).T)) for _ in means]
    stack = stack_gaussians(means, precisions)
    features = torch.randn(images, D)
    record(benchmark, f"Mahalanobis distances to 15 prototypes, {images} image{'s' * (images > 1)}")
    if backend == "reference":
        benchmark.pedantic(mahalanobis_distances_reference, (features, means, precisions), rounds=20, warmup_rounds=2)
    else:
        benchmark.pedantic(mahalanobis_distances, (features, stack), rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("case", ["first task, 28x28", "later task, 28x28"])
def test_optimizer(benchmark: Any, case: str, backend: str) -> None:
    """Clipping and AdamP over the parameters of a task; the reference is the package `adamp`."""
    task_id = STEP_CASES[case].task_id
    params = make_trainer(STEP_CASES[case].flow, task_id + 1).nf_model.get_trainable_params(task_id)
    for parameter in params:
        parameter.grad = torch.randn_like(parameter)
    make = adamp.AdamP if backend == "reference" else AdamP
    stepper = make(params, lr=2e-4, weight_decay=0.01)
    record(benchmark, f"clipping and AdamP, {case.partition(',')[0]}: {sum(p.numel() for p in params) / 1e6:.1f} M")

    def run() -> None:
        if backend == "reference":
            torch.nn.utils.clip_grad_norm_(params, 0.5)
            stepper.step()
        else:
            stepper.step(max_norm=0.5)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
