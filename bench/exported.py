"""A run's detector and the programs exported from it side by side, on a CPU: from bytes to maps, without decoding.

`OMP_NUM_THREADS=1 python bench/exported.py RUN IMAGE ...` after `moleflow_fast.export RUN` in the formats to compare;
times are of one image and of all of them at once, in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from tables import markdown  # noqa: E402

from moleflow_fast.detector.detector import Detector  # noqa: E402
from moleflow_fast.export import runtimes, trained  # noqa: E402
from moleflow_fast.export.check_images import prepared  # noqa: E402
from moleflow_fast.run.directory import RunDirectory  # noqa: E402

ROUNDS, WARM_UP = 12, 2
Program = Callable[[NDArray[np.uint8]], Any]  # (B, S, S, 3)
LOADERS = {
    "onnxruntime": ("onnx", runtimes.onnxruntime),
    "OpenVINO": ("onnx", runtimes.openvino),
    "AOTInductor": ("aot.pt2", runtimes.aot_package),
    "torch.export": ("pt2", runtimes.torch_program),
}


def programs(run: Path) -> dict[str, Program]:
    """The detector on each backend, and whatever lies in the run's export/."""
    # Loaded twice: plain PyTorch makes the engine of its own model forget its packed weights.
    compiled, plain = (trained.load(RunDirectory.open(run)) for _ in range(2))
    files = {name: (run / "export" / f"detector.{suffix}", load) for name, (suffix, load) in LOADERS.items()}
    return {
        "detector, compiled engine": _on_device(compiled.detector),
        "detector, plain PyTorch": _on_device(plain.eager),
        **{name: load(file) for name, (file, load) in files.items() if file.exists()},
    }


def _on_device(detector: Detector) -> Program:
    """What becomes of a batch between decoding and results."""
    return lambda images: detector._on_device(torch.from_numpy(images).permute(0, 3, 1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    options = parser.parse_args()
    contenders = programs(options.run)
    side = RunDirectory.open(options.run).options().img_size
    images = np.stack([prepared(path, side) for path in options.images])
    times: dict[tuple[str, int], list[float]] = {(name, n): [] for name in contenders for n in (1, len(images))}
    for _ in range(WARM_UP + ROUNDS):
        for (name, count), taken in times.items():
            batch, started = images[:count].copy(), time.perf_counter()
            contenders[name](batch)
            taken.append(1e3 * (time.perf_counter() - started))
    titles = (f"ms a batch, median (fastest) of {ROUNDS}", "1 image", f"{len(images)} images")
    print(markdown(titles, ([name, *(_cell(times[name, n]) for n in (1, len(images)))] for name in contenders)))


def _cell(taken: list[float]) -> str:
    counted = taken[WARM_UP:]
    return f"{median(counted):.1f} ({min(counted):.1f})"


if __name__ == "__main__":
    main()
