"""What this machine can do, measured in the same run as the benchmarks: the rates behind every "% of floor".

`python bench/machine.py` prints it.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

import torch
from backends import products_in
from device import DEVICE, ON_GPU, synchronise

# rows, in, out: 16 images of 28 x 28 patches; one image; large enough to reach what a GPU can do
PRODUCTS = {"batch": (12_544, 768, 768), **({"large": (8192,) * 3} if ON_GPU else {"image": (784, 768, 768)})}
PRECISIONS = ("fp32", "tf32", "bf16") if ON_GPU else ("fp32",)
COPY_BYTES = 2**30 if ON_GPU else 256 * 2**20


@dataclass(frozen=True)
class Gpu:
    """What torch and the driver say of it; `driver` is None where there is no nvidia-smi to ask."""

    name: str
    driver: str | None
    capability: str
    cuda: str | None
    triton: str | None


@dataclass(frozen=True)
class Machine:
    """Rates are medians, and those of the GPU where the benchmarks run on one.

    `gflops` maps a precision and a product of `PRODUCTS` to GFLOP/s; a copy counts its read and write.
    """

    cpu: str
    threads: int
    torch: str
    python: str
    date: str
    gflops: dict[str, dict[str, float]]
    copy_gigabytes_per_s: float
    gpu: Gpu | None = None

    def as_dict(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def measure() -> Machine:
    """Takes about a second."""
    return Machine(
        cpu=cpu_model(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        date=date.today().isoformat(),
        gflops={
            precision: {name: round(product_gflops(*shape, precision), 1) for name, shape in PRODUCTS.items()}
            for precision in PRECISIONS
        },
        copy_gigabytes_per_s=round(copy_rate(), 2),
        gpu=_gpu() if ON_GPU else None,
    )


def product_gflops(rows: int, inner: int, columns: int, precision: str = "fp32", repeats: int = 7) -> float:
    """Rate of x W^T into a preallocated output, GFLOP/s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight = (torch.randn(n, inner, device=DEVICE).to(dtype) for n in (rows, columns))
    out = x.new_empty(rows, columns)
    with products_in(precision):
        seconds = _median_seconds(lambda: torch.mm(x, weight.T, out=out), repeats)
    return 2 * rows * inner * columns / seconds / 1e9


def copy_rate(nbytes: int = COPY_BYTES, repeats: int = 7) -> float:
    """GB/s of a copy far larger than the caches, read and write counted."""
    source = torch.ones(nbytes // 4, device=DEVICE)
    target = torch.zeros_like(source)
    return 2 * nbytes / _median_seconds(lambda: target.copy_(source), repeats) / 1e9


def _gpu() -> Gpu:
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = None
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return Gpu(torch.cuda.get_device_name(), _driver(), capability, torch.version.cuda, triton)


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return result.stdout.split("\n")[0].strip() if result.returncode == 0 else None


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Of one call; on a GPU ten are launched at a time, so that launching them does not count."""
    calls = 10 if ON_GPU else 1
    times = []
    for _ in range(repeats + 1):
        synchronise()
        started = time.perf_counter()
        for _ in range(calls):
            run()
        synchronise()
        times.append((time.perf_counter() - started) / calls)
    return median(times[1:])


if __name__ == "__main__":
    print(json.dumps(measure().as_dict(), indent=2))
