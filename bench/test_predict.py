"""A trained detector at work: small images as arrays, and photographs from files to what the predict command writes.

Synthetic demo images, random backbone weights (speed depends on neither), one epoch of three products.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device import SMALL
from PIL import Image
from recording import record

from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.demo import write_demo
from moleflow_fast.detector.detector import Detector
from moleflow_fast.predict.drawing import Drawing
from moleflow_fast.predict.output import Output
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.session import ContinualRun

CLASSES = ("fabric", "gasket", "wood")
SIDE, IMAGES = (64, 8) if SMALL else (128, 64)
PHOTOGRAPHS, WIDTH, HEIGHT = (4, 640, 480) if SMALL else (12, 3264, 2448)
FLOW = {"embed_dim": 32, "num_coupling_layers": 2, "lora_rank": 4} if SMALL else {"embed_dim": 128}
OUTPUTS = {  # what is drawn: files, page
    "scores": (False, False),
    "scores, overlays and masks": (True, False),
    "scores and page": (False, True),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "data", train=8, test_good=20, test_defective=2, size=SIDE)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("logs")
    options = RunOptions(
        dataset="folder",
        data_path=str(data),
        task_classes=CLASSES,
        img_size=SIDE,
        backbone_name="mobilenetv2_100",
        backbone_layers=("blocks.2", "blocks.4"),
        random_backbone=True,
        num_epochs=1,
        heatmaps=0,
        log_dir=str(logs),
        cache_dir=str(logs / "features"),
        quiet=True,
        **FLOW,  # type: ignore[arg-type]
    )
    return ContinualRun(options, RunConsole(quiet=True)).execute().directory.path


@pytest.fixture(scope="module")
def test_images(data: Path) -> list[Path]:
    return [path for name in CLASSES for path in sorted((data / name / "test").rglob("*.png"))]


@pytest.fixture(scope="module")
def photographs(test_images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JPEG files with the noise of a sensor."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(PHOTOGRAPHS):
        with Image.open(test_images[number * len(test_images) // PHOTOGRAPHS]) as image:
            pixels = np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        noise = rng.integers(0, 8, pixels.shape, dtype=np.uint8)
        paths.append(folder / f"{number:02}.jpg")
        Image.fromarray(np.minimum(pixels, 248) + noise).save(paths[-1], quality=92)
    return paths


@pytest.mark.parametrize("batch_size", [1, 16])
def test_small_images(benchmark: Any, run: Path, test_images: list[Path], batch_size: int) -> None:
    paths = itertools.islice(itertools.cycle(test_images), IMAGES)
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    detector = Detector.load(run, batch_size=batch_size)
    record(benchmark, f"Detector.predict, {IMAGES} images of {SIDE} px, by images on the device at a time")
    results = benchmark.pedantic(detector.predict, (images,), rounds=5, warmup_rounds=1)
    assert len(results) == IMAGES and all(result.error is None for result in results)


@pytest.mark.parametrize("output", OUTPUTS)
def test_photographs(benchmark: Any, run: Path, photographs: list[Path], tmp_path: Path, output: str) -> None:
    """All of the command but loading the run."""
    to_files, to_page = OUTPUTS[output]
    detector = Detector.load(run)
    drawing = Drawing(detector.calibration, to_files, to_page)

    def predict() -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with Output.in_folder(tmp_path / "out", page=to_page, draws=to_files) as written:
            for drawn in detector.stream_drawn(photographs, drawing.side, drawing):
                assert drawn.result.error is None
                written.add(drawn)
            written.finish("photographs", 0.5)

    record(benchmark, f"predict, {PHOTOGRAPHS} photographs of {WIDTH * HEIGHT / 1e6:.0f} megapixels")
    benchmark.pedantic(predict, rounds=3, warmup_rounds=1)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2 * PHOTOGRAPHS * to_files
