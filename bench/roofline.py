"""What every kernel needs at the real sizes, and how near to it a measurement comes, as Markdown.

python bench/roofline.py                          16 images of 28 x 28 x 768, operands of products in bf16
python bench/roofline.py FOLDER/<date>-<gpu>.json    with the times of a result file (bench/tables.py)

A kernel's floor is the longer of two times: its multiply-adds at the rate of its products, and its compulsory bytes
(inputs, outputs and weights once) at the rate of the memory. Elementwise work is not counted. The default rates are
those of an H200: 790 TFLOP/s in bf16, of 989 on the data sheet, and as large a part of its 67 in fp32; 4.3 TB/s.

No product of these sizes reaches such a rate. What can be reached is the longer of cuBLAS's time for the same products,
measured on an H200 with nothing fused (results/cuda/2026-11-28-nvidia-h200-ways.json), and the bytes at the rate of its
copy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from counts import Flow, Work, adamp, mahalanobis  # noqa: E402
from kernel_cases import CASES, Sizes  # noqa: E402
from operations import (  # noqa: E402
    BATCH,
    OPERATIONS,
    PROTOTYPES,
    distances_title,
    optimizer_title,
    trained_parameters,
)
from tables import Result, load, markdown, seconds  # noqa: E402

FLOW = Flow(BATCH.dim, blocks=8, dia_blocks=4, rank=64)
OURS = ("triton", "kernel")  # backends of a result file
LATER_TASK = optimizer_title(1, trained_parameters(FLOW, 1))

H200 = Path(__file__).parent / "results" / "cuda" / "2026-11-28-nvidia-h200.json"
COPY = 4.2e12  # bytes a second, measured there
WHOLE_STEP, IN_BF16 = "training step, later task, 28x28, 16 images", "triton-bf16"  # group and backend in a result file
TIMES = ("floor", "reachable", "measured", "% of floor", "% of reachable")  # last columns of both tables

# The products of each row as cuBLAS does them at 12,544 tokens: outputs x inputs. Input gradients are cuBLAS's own.
_BOTH_FIRST = ("cublas channel-major 768x768", "cublas channel-major 768x384")
_BOTH_LAST = 2 * ("cublas channel-major 384x768",)
_TASK_LAYER = 2 * ("cublas channel-major 384x384",)
_DENSE = FLOW.blocks * (
    "cublas weight gradient channel-major 1536x768",
    *2 * ("cublas weight gradient channel-major 384x768",),
)
_TASK_DENSE = (
    "cublas weight gradient channel-major 768x384",
    *4 * ("cublas weight gradient channel-major 384x384",),
)
CUBLAS: dict[str, tuple[str, ...]] = {
    "relu_product": _BOTH_FIRST,
    "relu_product by image": _BOTH_FIRST,
    "relu_product, task flow, first": ("cublas channel-major 768x384",),
    "relu_product, task flow, middle": _TASK_LAYER,
    "coupling_product": _BOTH_LAST,
    "coupling_product, nothing kept": _BOTH_LAST,
    "coupling_product by image": _BOTH_LAST,
    "coupling_product, task flow": _TASK_LAYER,
    "relu_gradient_product": 2 * ("cublas channel-major 768x384",),
    "relu_gradient_product, task flow": _TASK_LAYER,
    "input gradient": ("input gradient, bf16",),
    "input gradient, task flow": ("input gradient, task flow, bf16",),
    "LoRA gradients of a flow": _DENSE,
    "LoRA gradients of a flow, factored": _DENSE,
    "weight and LoRA gradients of a flow": _DENSE,
    "weight gradients, task flow": _TASK_DENSE,
}

# A later task's optimizer step: how often each part runs, and its rows.
STEP: dict[str, tuple[int, tuple[str, ...]]] = {
    "base block, forward": (FLOW.blocks, ("gather_rows with context", "relu_product", "coupling_product")),
    "base block, backward": (
        FLOW.blocks,
        ("coupling_backward", "relu_gradient_product", "input gradient", "scatter_gradient with context"),
    ),
    "LoRA gradients": (1, ("LoRA gradients of a flow",)),
    "task flow's coupling, forward": (
        FLOW.dia_blocks,
        (
            "gather_rows",
            "relu_product, task flow, first",
            "relu_product, task flow, middle",
            "coupling_product, task flow",
        ),
    ),
    "task flow's coupling, backward": (
        FLOW.dia_blocks,
        (
            "coupling_backward",
            *2 * ("relu_gradient_product, task flow",),
            "weight gradients, task flow",
            "input gradient, task flow",
            "scatter_gradient",
        ),
    ),
    "merge": (1, ("merge of a flow",)),
    "sums over tokens": (1, ("sums over tokens",)),
    "enter and leave": (1, ("enter", "leave")),
    "adapter and mixer": (1, ("whitening, forward and backward", "depthwise, forward and backward")),
    "loss": (1, ("state_nll", "state_gradient")),
    "optimizer": (1, (LATER_TASK,)),
}


@dataclass(frozen=True)
class Rates:
    """Operations a second of products of bf16 and of fp32 numbers, and bytes a second."""

    bf16: float
    fp32: float
    bytes: float


@dataclass(frozen=True)
class Row:
    """`group` is its name in a result file; with `fp32` its multiply-adds are of fp32 numbers."""

    name: str
    group: str
    work: Work
    fp32: bool

    def arithmetic(self, rates: Rates) -> float:
        return 2 * self.work.macs / (rates.fp32 if self.fp32 else rates.bf16)

    def traffic(self, rates: Rates) -> float:
        return self.work.bytes / rates.bytes

    def floor(self, rates: Rates) -> float:
        return max(self.arithmetic(rates), self.traffic(rates))

    def reachable(self, rates: Rates) -> float:
        products = [cublas_seconds()[name] for name in CUBLAS.get(self.name, ())]
        return max(sum(products) if products else self.arithmetic(rates), self.work.bytes / COPY)


def rows() -> list[Row]:
    """Every kernel of the flow, then every operation around it that has a kernel."""
    return [*_kernels(), *_operations()]


def _kernels() -> Iterator[Row]:
    sizes = Sizes(BATCH.dim, BATCH[:3], torch.bfloat16, device="meta")
    for name, make in CASES.items():
        case = make(sizes)
        yield Row(name, f"{name}, bf16", case.work, case.fp32)


def _operations() -> Iterator[Row]:
    works = {operation.title: operation.work(BATCH) for operation in OPERATIONS if operation.on_gpu}
    works |= {distances_title(images): mahalanobis(images, PROTOTYPES, BATCH.dim) for images in (1, BATCH.images)}
    trained = {task_id: trained_parameters(FLOW, task_id) for task_id in (0, 1)}
    works |= {optimizer_title(task_id, count): adamp(count) for task_id, count in trained.items()}
    for name, work in works.items():
        yield Row(name, name, work, fp32=True)


@cache
def cublas_seconds() -> dict[str, float]:
    """Of the products that an H200 has timed, by name."""
    ways = json.loads(H200.with_name(f"{H200.stem}-ways.json").read_text())
    cold = {name: 1e-6 * way["cold_us"] for name, way in ways.items() if name.startswith("cublas")}
    return cold | {group: time for group, time in measured(load([H200])).items() if group.startswith("input gradient")}


def measured(result: Result) -> dict[str, float]:
    """Seconds of our row in each group of a result file; of a step, of that in bf16."""
    if result.get("small"):
        raise SystemExit("MOLEFLOW_BENCH_SMALL was set: the times of this result are of other sizes")
    return {row["group"]: row["median_s"] for row in result["benchmarks"] if row["backend"] in _ours(row["group"])}


def _ours(group: str) -> tuple[str, ...]:
    return (IN_BF16,) if group == WHOLE_STEP else OURS


def report(every: list[Row], times: dict[str, float], rates: Rates) -> str:
    """A table of all rows, and one of a step."""
    return f"{_table(every, times, rates)}\n\n{_step_table(every, times, rates)}\n"


def _table(every: list[Row], times: dict[str, float], rates: Rates) -> str:
    titles = ("kernel or operation", "GFLOP", "MB", "arithmetic", "traffic", "bound by", *TIMES)
    return markdown(titles, (_cells(row, times.get(row.group), rates) for row in every))


def _cells(row: Row, time: float | None, rates: Rates) -> tuple[str, ...]:
    arithmetic, traffic = row.arithmetic(rates), row.traffic(rates)
    return (
        row.name,
        f"{2 * row.work.macs / 1e9:.2f}" if row.work.macs else "",
        f"{row.work.bytes / 1e6:.1f}",
        f"{seconds(arithmetic)}{' (fp32)' if row.fp32 else ''}" if arithmetic else "",
        seconds(traffic),
        "arithmetic" if arithmetic > traffic else "traffic",
        *_against(row.floor(rates), row.reachable(rates), time),
    )


def _step_table(every: list[Row], times: dict[str, float], rates: Rates) -> str:
    """Parts of a later task's step, and the step; a part is measured where all of its rows are."""
    named = {row.name: row for row in every}
    floors, reachable, cells = 0.0, 0.0, []
    for part, (repeats, names) in STEP.items():
        rows = [named[name] for name in names]
        floor = repeats * sum(row.floor(rates) for row in rows)
        reached = repeats * sum(row.reachable(rates) for row in rows)
        there = all(row.group in times for row in rows)
        time = repeats * sum(times[row.group] for row in rows) if there else None
        cells.append((part, str(repeats), *_against(floor, reached, time)))
        floors, reachable = floors + floor, reachable + reached
    cells.append(("step", "1", *_against(floors, reachable, times.get(WHOLE_STEP))))
    return markdown(("part of a later task's step", "times", *TIMES), cells)


def _against(floor: float, reachable: float, time: float | None) -> tuple[str, ...]:
    """The cells of `TIMES`."""
    if time is None:
        return seconds(floor), seconds(reachable), "not measured", "", ""
    shares = (f"{100 * limit / time:.0f}%" for limit in (floor, reachable))
    return seconds(floor), seconds(reachable), seconds(time), *shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", help="a result file, or rows of a run")
    parser.add_argument("--bf16-tflops", type=float, default=790.0, help="products of bf16 numbers (%(default)s)")
    parser.add_argument("--fp32-tflops", type=float, default=54.0, help="products of fp32 numbers (%(default)s)")
    parser.add_argument("--terabytes", type=float, default=4.3, help="moved a second (%(default)s)")
    options = parser.parse_args()
    times = {} if options.result is None else measured(load([options.result]))
    rates = Rates(1e12 * options.bf16_tflops, 1e12 * options.fp32_tflops, 1e12 * options.terabytes)
    print(report(rows(), times, rates), end="")


if __name__ == "__main__":
    main()
