"""Images to anomaly maps, scores and task ids: backbone, routing among three tasks, flow. Random weights.

`eager`, `compile` and `cpp` are `MoLEContinualTrainer.inference`; only the flow is compiled under `compile`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backends import pairs, skip_unless_runnable
from recording import record
from workloads import BACKBONES, IMAGE_SIZE, inference

CASES = [(backbone, images) for backbone in BACKBONES for images in (8, 1)]
COMPILED = [(backbone, 8) for backbone in BACKBONES]


def _name(value: str | tuple[str, int]) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value))


@pytest.mark.parametrize(("case", "backend"), pairs(CASES, COMPILED), ids=_name)
def test_inference(benchmark: Any, case: tuple[str, int], backend: str) -> None:
    backbone, images = case
    skip_unless_runnable(backend)
    torch.manual_seed(0)
    batch = torch.randn(images, 3, IMAGE_SIZE, IMAGE_SIZE)
    run, work = inference(BACKBONES[backbone], batch, backend)
    unit = "image" if images == 1 else "images"
    record(benchmark, f"inference, {backbone}, {images} {unit} of {IMAGE_SIZE} px", work)
    maps, _, ids = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    assert maps.isfinite().all()
    assert ids.tolist() == [1] * images
