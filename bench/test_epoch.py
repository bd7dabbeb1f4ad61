"""One training epoch with cached features against the same epoch with the backbone run every time.

`torch_loader` is the trainer with an ordinary DataLoader of images, as scripts for the published package have it.

Synthetic demo images, random backbone weights (speed does not depend on either), default flow settings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from device import SMALL
from recording import record
from torch.utils.data import DataLoader

from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.demo import write_demo
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run
from moleflow_fast.run.task_training import trainer_of
from moleflow_fast.trainer.feature_loader import FeatureLoader

SIZE = 128 if SMALL else 1024  # pixels a side on disk, as most MVTec AD images
BACKBONES: dict[str, tuple[int, dict[str, Any]]] = {  # images, options
    "mobilenetv2_100": (16 if SMALL else 64, {"backbone_layers": ("blocks.2", "blocks.4"), "embed_dim": 256}),
    "wide_resnet50_2": (16, {"embed_dim": 768}),
}
SHRUNK = {"img_size": 64, "embed_dim": 32, "num_coupling_layers": 2, "lora_rank": 4} if SMALL else {}


@pytest.fixture(scope="module")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    @cache
    def write(images: int) -> Path:
        folder = tmp_path_factory.mktemp("demo") / "data"
        return write_demo(folder, train=images, test_good=1, test_defective=1, size=SIZE)

    return write


@pytest.mark.parametrize("features", ["backbone_every_epoch", "cached", "torch_loader"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_epoch(benchmark: Any, data_of: Callable[[int], Path], tmp_path: Path, backbone: str, features: str) -> None:
    images, backbone_options = BACKBONES[backbone]
    options = RunOptions(
        dataset="folder",
        data_path=str(data_of(images)),
        backbone_name=backbone,
        random_backbone=True,
        num_epochs=1,
        cache_dir=str(tmp_path / "features"),
        no_feature_cache=features == "backbone_every_epoch",
        quiet=True,
        **(backbone_options | SHRUNK),
    )
    run = Run(RunContext(options, RunConsole(quiet=True)))
    loader: Any
    if features == "torch_loader":
        loader = DataLoader(run.images.training(run.tasks[0]), options.batch_size, shuffle=True, drop_last=True)
    else:
        loader = FeatureLoader(run.features.training(run.tasks[0]), options.batch_size, options.seed)
    trainer = trainer_of(run)
    for task_id in (0, 1):
        trainer._begin_task(task_id)
    batches = trainer._as_epochs(loader, run.tasks[0])
    stage = trainer._stages(1, 10, options.lr)[0]
    trainer._train_epoch(1, stage, 0, 10, batches)
    record(benchmark, f"one epoch of a later task, {images} images of {SIZE} px, {backbone}", backend=features)
    benchmark.pedantic(trainer._train_epoch, (1, stage, 1, 10, batches), rounds=3)
