"""What every kernel needs at the real sizes, and how near to it a measurement comes, as Markdown.

python bench/roofline.py                          16 images of 28 x 28 x 768, operands of products in bf16
python bench/roofline.py FOLDER/<date>-<gpu>.json    with the times of a result file (bench/tables.py)

A kernel's floor is the longer of two times: its multiply-adds at the rate of its products, and its compulsory bytes
(inputs, outputs and weights once) at the rate of the memory. Elementwise work is not counted. The default rates are
those of an H200: 790 TFLOP/s in bf16, of 989 on the data sheet, and as large a part of its 67 in fp32; 4.3 TB/s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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

# A later task's optimizer step: how often each part runs, and its rows.
STEP: dict[str, tuple[int, tuple[str, ...]]] = {
    "base block, forward": (FLOW.blocks, ("gather_rows with context", "relu_product", "coupling_product")),
    "base block, backward": (
        FLOW.blocks,
        (
            "coupling_backward",
            "relu_gradient_product",
            "LoRA gradients",
            "input gradient",
            "scatter_gradient with context",
        ),
    ),
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
    "merge": (FLOW.blocks, ("merge of a block",)),
    "enter and leave, both ways": (2, ("enter", "leave")),
    "adapter and mixer": (1, ("whitening, forward and backward", "depthwise, forward and backward")),
    "loss": (1, ("density_loss, forward and backward",)),
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


def measured(result: Result) -> dict[str, float]:
    """Seconds of our row in each group of a result file."""
    if result.get("small"):
        raise SystemExit("MOLEFLOW_BENCH_SMALL was set: the times of this result are of other sizes")
    return {row["group"]: row["median_s"] for row in result["benchmarks"] if row["backend"] in OURS}


def report(every: list[Row], times: dict[str, float], rates: Rates) -> str:
    """A table of all rows, and one of a step."""
    return f"{_table(every, times, rates)}\n\n{_step_table(every, times, rates)}\n"


def _table(every: list[Row], times: dict[str, float], rates: Rates) -> str:
    titles = (
        "kernel or operation", "GFLOP", "MB", "arithmetic", "traffic", "floor", "bound by", "measured", "% of floor"
    )  # fmt: skip
    return markdown(titles, (_cells(row, times.get(row.group), rates) for row in every))


def _cells(row: Row, time: float | None, rates: Rates) -> tuple[str, ...]:
    arithmetic, traffic, floor = row.arithmetic(rates), row.traffic(rates), row.floor(rates)
    return (
        row.name,
        f"{2 * row.work.macs / 1e9:.2f}" if row.work.macs else "",
        f"{row.work.bytes / 1e6:.1f}",
        f"{seconds(arithmetic)}{' (fp32)' if row.fp32 else ''}" if arithmetic else "",
        seconds(traffic),
        seconds(floor),
        "arithmetic" if arithmetic > traffic else "traffic",
        *_against(floor, time),
    )


def _step_table(every: list[Row], times: dict[str, float], rates: Rates) -> str:
    """Parts of a later task's step, and their sum; a part is measured where all of its rows are."""
    named = {row.name: row for row in every}
    floors, found = dict[str, float](), dict[str, float | None]()
    for part, (repeats, names) in STEP.items():
        own = [times.get(named[name].group) for name in names]
        floors[part] = repeats * sum(named[name].floor(rates) for name in names)
        found[part] = None if None in own else repeats * sum(own)  # type: ignore[arg-type]
    cells = [(part, str(STEP[part][0]), seconds(floors[part]), *_against(floors[part], found[part])) for part in STEP]
    whole, time = sum(floors.values()), None if None in found.values() else sum(found.values())  # type: ignore[arg-type]
    cells.append(("step", "1", seconds(whole), *_against(whole, time)))
    return markdown(("part of a later task's step", "times", "floor", "measured", "% of floor"), cells)


def _against(floor: float, time: float | None) -> tuple[str, str]:
    return ("not measured", "") if time is None else (seconds(time), f"{100 * floor / time:.0f}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", help="a result file, or JSON of pytest-benchmark")
    parser.add_argument("--bf16-tflops", type=float, default=790.0, help="products of bf16 numbers (%(default)s)")
    parser.add_argument("--fp32-tflops", type=float, default=54.0, help="products of fp32 numbers (%(default)s)")
    parser.add_argument("--terabytes", type=float, default=4.3, help="moved a second (%(default)s)")
    options = parser.parse_args()
    times = {} if options.result is None else measured(load([options.result]))
    rates = Rates(1e12 * options.bf16_tflops, 1e12 * options.fp32_tflops, 1e12 * options.terabytes)
    print(report(rows(), times, rates), end="")


if __name__ == "__main__":
    main()
