"""What this machine can do, measured in the same run as the benchmarks: the rates behind every "% of floor".

`python bench/machine.py` prints it.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

import torch

PRODUCTS = {"batch": (12_544, 768, 768), "image": (784, 768, 768)}  # tokens, in, out: 16 images, one image
COPY_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Machine:
    """Rates are medians. `gflops` maps a product of `PRODUCTS` to fp32 GFLOP/s; a copy counts its read and write."""

    cpu: str
    threads: int
    torch: str
    python: str
    date: str
    gflops: dict[str, float]
    copy_gigabytes_per_s: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def measure() -> Machine:
    """Takes about a second."""
    return Machine(
        cpu=cpu_model(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        date=date.today().isoformat(),
        gflops={name: round(product_gflops(*shape), 1) for name, shape in PRODUCTS.items()},
        copy_gigabytes_per_s=round(copy_rate(), 2),
    )


def product_gflops(rows: int, inner: int, columns: int, repeats: int = 7) -> float:
    """fp32 rate of x W^T into a preallocated output, GFLOP/s."""
    x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    out = torch.empty(rows, columns)
    seconds = _median_seconds(lambda: torch.mm(x, weight.T, out=out), repeats)
    return 2 * rows * inner * columns / seconds / 1e9


def copy_rate(nbytes: int = COPY_BYTES, repeats: int = 7) -> float:
    """GB/s of a copy far larger than the caches, read and write counted."""
    source = torch.ones(nbytes // 4)
    target = torch.zeros_like(source)
    return 2 * nbytes / _median_seconds(lambda: target.copy_(source), repeats) / 1e9


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


if __name__ == "__main__":
    print(json.dumps(measure().as_dict(), indent=2))
