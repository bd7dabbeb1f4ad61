"""A whole continual run of MVTec AD's shape, from files to tables: decoding, backbone, 60 epochs a task, evaluation.

The images are noise (speed does not depend on what they show) with the class names and counts of MVTec AD, 224 px.
Only on a GPU; MOLEFLOW_BENCH_SMALL=1 runs a few images of two classes anywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from device import ON_GPU, SMALL
from noise_data import FEW, MVTEC, write
from recording import record
from row_file import VARIABLE

CLASSES = FEW if SMALL else MVTEC
SIZE, EPOCHS = (64, 1) if SMALL else (224, 60)
SHRUNK = ["--img_size", "64", "--embed_dim", "32", "--num_coupling_layers", "2", "--lora_rank", "4"] if SMALL else []
BACKENDS = {"triton-bf16": ("triton", "bf16")} if ON_GPU else {"cpp": ("cpp", "fp32")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mvtec"), CLASSES, SIZE)


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
