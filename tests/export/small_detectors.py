"""Detectors of any configuration without a run: a tiny backbone, every parameter away from its starting value."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moleflow_fast.config import AblationConfig
from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.normalization import Normalization
from moleflow_fast.detector.calibration import Calibration, TaskCalibration
from moleflow_fast.detector.detector import Detector
from moleflow_fast.extractors import CNNPatchCoreExtractor, PatchExtractor
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.run.building import build_moleflow
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run

SIDE, DIM = 32, 16


class TinyBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 20, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.norm(self.first(x))))


def pictures(task: int, count: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Noise on a gradient of the task's own (count, side, side, 3)."""
    numbers = np.random.default_rng(10 * task + count)
    ramp = np.linspace(0, 1, side)[:, None, None] if task % 2 else np.linspace(1, 0, side)[None, :, None]
    tint = np.eye(3)[task % 3] * 120 + 60
    noise = numbers.normal(0, 25, (count, side, side, 3))
    return (ramp * tint + noise + 20 * task).clip(0, 255).astype(np.uint8)


def mixed_pictures(tasks: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Nine pictures, so a batch of 1, of 3 and of 5, of all tasks in turn."""
    return np.stack([pictures(i % tasks, 9, side)[i] for i in range(9)])


def make_run(
    config: AblationConfig | None = None, tasks: int = 3, extractor: PatchExtractor | None = None, **options: Any
) -> Run:
    """A run after `tasks` tasks, every parameter away from its starting value."""
    torch.manual_seed(7)
    given = {"img_size": SIDE, "num_coupling_layers": 2, "lora_rank": 3, "msk_size": 24, "batch_size": 4, **options}
    chosen = RunOptions(data_path=None, device="cpu", ablation=config or AblationConfig(), **given)
    backbone, shape = TinyBackbone(), (3, SIDE, SIDE)
    extractor = extractor or CNNPatchCoreExtractor(
        "tiny", ["first", "second"], shape, target_embed_dimension=DIM, device="cpu", backbone=backbone
    )
    moleflow = build_moleflow(chosen, extractor, torch.device("cpu"))
    run, model = Run(RunContext(chosen, RunConsole(quiet=True)), moleflow=moleflow), moleflow.flow
    for task in range(tasks):
        patches = _patches(run, pictures(task, 12, chosen.img_size))
        if task == 0:
            model.update_reference_stats(patches)
            model.finalize_reference_stats()
        model.add_task(task)
        if (front := model.front(task)) is not None:
            front.fit(partial(iter, [moleflow.add_positions(patches)]))
        moleflow.task_classes[task] = [f"product{task}"]
        prototype = moleflow.router.new_prototype(task)
        prototype.update(patches.mean((1, 2)))
        moleflow.router.add_prototype(prototype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.freeze()
    return run


def make_detector(run: Run, threshold: float = 0.5) -> Detector:
    return Detector(run, Calibration({t: _calibration(run, t) for t in run.moleflow.router.prototypes}), threshold)


def _calibration(run: Run, task: int) -> TaskCalibration:
    """Of pictures like those that are scored: some of these lie on each side of every boundary."""
    patches = _patches(run, pictures(task, 7, run.options.img_size))
    maps = run.moleflow.anomaly_maps(patches, torch.full((7,), task))
    low, high = np.quantile(image_scores(maps, run.moleflow.config).numpy(), (0.3, 0.6))
    place = list(run.moleflow.router.prototypes).index(task)
    distances = run.moleflow.router.distances(patches.mean((1, 2)))[:, place]
    nearest, compared = float(distances.median()) * 1.1, run.moleflow.router.compares_distances
    return TaskCalibration(
        task, (f"product{task}",), 7, (), float(low), float(high), 0.0, 0.0, float(distances.median()) / 1.5,
        nearest if compared else 0.0, compared,
    )  # fmt: skip


def _patches(run: Run, images: NDArray[np.uint8]) -> torch.Tensor:
    return run.extractor(Normalization()(torch.from_numpy(images).permute(0, 3, 1, 2)))
