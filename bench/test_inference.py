"""Images to anomaly maps, scores and task ids: backbone, routing among three tasks, flow. Random weights.

Images start as bytes on the device, and normalisation is part of what is timed, for every backend.
All but `published` are `MoLEContinualTrainer.inference`. Only the flow is compiled under `compile`. In rows
of bf16 the backbone is in bf16 as well, but for `published-bf16`, whose convolutions may run in tf32.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backends import arrangement, pairs, precision, skip_unless_runnable
from device import DEVICE, ON_GPU, SMALL
from recording import record
from workloads import BACKBONES, IMAGE_SIZE, inference

CASES = [
    (backbone, images)
    for backbone in (("wide_resnet50_2",) if ON_GPU else BACKBONES)
    for images in ((256, 32, 1) if ON_GPU and not SMALL else (8, 1))
]
TIMED = [
    (case, backend)
    for case, backend in pairs(CASES, [case for case in CASES if case[1] in (8, 32)])
    if case[1] <= 32 or arrangement(backend) == "triton"  # of 256 the others would take minutes
]
ROUNDS, WARM_UP = (10, 2) if ON_GPU else (3, 1)


def _name(value: str | tuple[str, int]) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value))


@pytest.mark.parametrize(("case", "backend"), TIMED, ids=_name)
def test_inference(benchmark: Any, case: tuple[str, int], backend: str) -> None:
    backbone, images = case
    skip_unless_runnable(backend)
    torch.manual_seed(0)
    batch = torch.randint(256, (images, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=DEVICE)
    run, work = inference(BACKBONES[backbone], batch, backend)
    group = f"inference, {backbone}, {images} {'image' if images == 1 else 'images'} of {IMAGE_SIZE} px"
    record(benchmark, group, work, precision=precision(backend), images=images)
    rounds = 3 if arrangement(backend) == "published" else ROUNDS  # a third of a second each for 32 images on a GPU
    maps, _, ids = benchmark.pedantic(run, rounds=rounds, warmup_rounds=WARM_UP)
    assert maps.isfinite().all()
    assert ids.tolist() == [1] * images
