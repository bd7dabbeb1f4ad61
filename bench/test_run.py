"""What a run takes around its training steps, by phase: a flow, a backbone and epochs that take next to nothing.

MVTec AD's shape (noise of 224 px in its class names and counts) and the six classes of the demo. A row's `phases` are
those of the run's own summary. MOLEFLOW_BENCH_SMALL=1: a few images of two classes, without the demo.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from device import DEVICE, SMALL
from noise_data import FEW, MVTEC, write
from recording import record

CLASSES, SIZE = (FEW, 64) if SMALL else (MVTEC, 224)
TINY = ["--preset", "published", "--random_backbone", "--backbone_name", "test_resnet", "--embed_dim", "32",
        "--num_coupling_layers", "2", "--lora_rank", "4", "--num_epochs", "2", "--img_size", str(SIZE)]  # fmt: skip


def _run(benchmark: Any, folder: Path, group: str, options: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "moleflow_fast.train", *options, "--quiet", "--device", DEVICE,
               "--cache_dir", str(folder / "features"), "--log_dir", str(folder / "runs")]  # fmt: skip
    record(benchmark, group, backend=DEVICE)
    # One round: a second would find the features in the cache.
    benchmark.pedantic(lambda: subprocess.run(command, check=True, cwd=folder), rounds=1)
    (summary,) = folder.glob("runs/*/summary.json")
    benchmark.extra_info["phases"] = json.loads(summary.read_text())["seconds"]


def test_mvtec_shape(benchmark: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "mvtec", CLASSES, SIZE)
    images = sum(map(sum, CLASSES.values()))
    group = f"a run around its steps, {len(CLASSES)} classes, {images:,} images"
    options = ["--dataset", "mvtec", "--data_path", str(data), "--task_classes", *CLASSES, *TINY]
    _run(benchmark, tmp_path, group, options)


@pytest.mark.skipif(SMALL, reason="it takes half a minute, however few images it shows")
def test_demo(benchmark: Any, tmp_path: Path) -> None:
    _run(benchmark, tmp_path, "a run around its steps, the demo's six classes", TINY)
