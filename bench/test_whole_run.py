"""A whole continual run of MVTec AD's shape, from files to tables: decoding, backbone, 60 epochs a task, evaluation.

The images are noise (speed does not depend on what they show) with the class names and counts of MVTec AD, 224 px.
Only on a GPU; MOLEFLOW_BENCH_SMALL=1 runs a few images of two classes anywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device import ON_GPU, SMALL
from PIL import Image
from recording import record
from row_file import VARIABLE

# Images: training, test (Bergmann et al., CVPR 2019, table 1).
MVTEC = {
    "bottle": (209, 83), "cable": (224, 150), "capsule": (219, 132), "carpet": (280, 117), "grid": (264, 78),
    "hazelnut": (391, 110), "leather": (245, 124), "metal_nut": (220, 115), "pill": (267, 167), "screw": (320, 160),
    "tile": (230, 117), "toothbrush": (60, 42), "transistor": (213, 100), "wood": (247, 79), "zipper": (240, 151),
}  # fmt: skip
CLASSES = {"bottle": (6, 4), "cable": (5, 3)} if SMALL else MVTEC
SIZE, EPOCHS = (64, 1) if SMALL else (224, 60)
SHRUNK = ["--img_size", "64", "--embed_dim", "32", "--num_coupling_layers", "2", "--lora_rank", "4"] if SMALL else []
BACKENDS = {"triton-bf16": ("triton", "bf16")} if ON_GPU else {"cpp": ("cpp", "fp32")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the test images are defective: a bright square, and the mask of it."""
    root = tmp_path_factory.mktemp("mvtec")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda item: _write_class(root / item[0], *item[1]), CLASSES.items()))
    return root


def _write_class(folder: Path, train: int, test: int) -> None:
    rng = np.random.default_rng(train)
    parts = (("train", "good", train), ("test", "good", test // 2), ("test", "spot", test - test // 2))
    for split, kind, count in parts:
        for number in range(count):
            pixels = rng.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
            if kind == "spot":
                mask = np.zeros((SIZE, SIZE), np.uint8)
                mask[5:20, 7:30] = 255
                pixels[mask > 0] += 55
                _save(folder / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
            _save(folder / split / kind / f"{number:03d}.png", pixels)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def _keep_epochs(folder: Path) -> None:
    """Of a run that was interrupted too: its epochs, beside the file of rows where there is one."""
    if row_file := os.environ.get(VARIABLE):
        for file in folder.glob("runs/*/epochs.csv"):
            shutil.copy(file, Path(row_file).with_suffix(".epochs.csv"))


@pytest.mark.skipif(not (ON_GPU or SMALL), reason="60 epochs of 15 classes take days on a CPU")
@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_run(benchmark: Any, data: Path, tmp_path: Path, backend: str) -> None:
    kind, precision = BACKENDS[backend]
    command = [
        sys.executable, "-P", "-m", "moleflow_fast.train", "--dataset", "mvtec", "--data_path", str(data),
        "--task_classes", *CLASSES, "--random_backbone", "--num_epochs", str(EPOCHS), "--quiet",
        "--backend", kind, "--precision", precision, "--cache_dir", str(tmp_path / "features"),
        "--device_cache_gb", "20", *SHRUNK,  # all 13 GB of features
    ]  # fmt: skip
    trained, tested = (sum(counts) for counts in zip(*CLASSES.values(), strict=True))
    group = f"whole run, {len(CLASSES)} classes, {trained:,} training and {tested:,} test images, {EPOCHS} epochs"
    record(benchmark, group, backend=backend)
    # One round: a second would find the features in the cache.
    try:
        benchmark.pedantic(lambda: subprocess.run(command, check=True, cwd=tmp_path), rounds=1)
    finally:
        _keep_epochs(tmp_path)
    assert list(tmp_path.glob("runs/*/summary.json"))
