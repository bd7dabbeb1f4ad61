"""A run's detector and the programs exported from it side by side, on a CPU: from bytes to maps, without decoding.

`OMP_NUM_THREADS=1 python bench/exported.py RUN IMAGE ...` after `moleflow_fast.export RUN` in the formats to compare;
times are of one image and of all of them at once, in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moleflow_fast import Detector
from moleflow_fast.export.pictures import prepared

ROUNDS, WARM_UP = 12, 2
Program = Callable[[NDArray[np.uint8]], Any]  # (B, S, S, 3)


def programs(run: Path) -> Iterator[tuple[str, Program]]:
    """The detector on each backend, and whatever lies in the run's export/."""
    for name, backend in (("detector, compiled engine", "cpp"), ("detector, plain PyTorch", "eager")):
        detector = Detector.load(run, device="cpu", batch_size=256)
        detector._parts.options = replace(detector._parts.options, backend=backend)
        yield name, lambda images, score=detector._on_device: score(torch.from_numpy(images).permute(0, 3, 1, 2))
    onnx, exported, compiled = (run / "export" / f"detector.{kind}" for kind in ("onnx", "pt2", "aot.pt2"))
    if onnx.exists():
        yield from (("onnxruntime", _onnxruntime(onnx)), ("OpenVINO", _openvino(onnx)))
    if compiled.exists():
        program = torch._inductor.aoti_load_package(str(compiled))
        yield "AOTInductor", lambda images: program(torch.from_numpy(images))
    if exported.exists():
        module = torch.export.load(exported).module()
        yield "torch.export", lambda images: module(torch.from_numpy(images))


def _onnxruntime(file: Path) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def _openvino(file: Path) -> Program:
    import openvino

    return openvino.Core().compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    options = parser.parse_args()
    contenders = dict(programs(options.run))
    side = Detector.load(options.run, device="cpu")._parts.options.img_size
    images = np.stack([prepared(path, side) for path in options.images])
    times: dict[tuple[str, int], list[float]] = {(name, n): [] for name in contenders for n in (1, len(images))}
    with torch.no_grad():
        for _ in range(WARM_UP + ROUNDS):
            for (name, count), taken in times.items():
                batch, started = images[:count].copy(), time.perf_counter()
                contenders[name](batch)
                taken.append(1e3 * (time.perf_counter() - started))
    print(f"| ms a batch, median (fastest) of {ROUNDS} | 1 image | {len(images)} images |\n|---|---|---|")
    for name in contenders:
        cells = [f"{median(t):.1f} ({min(t):.1f})" for n in (1, len(images)) for t in [times[name, n][WARM_UP:]]]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
