"""Predicted time of a later task's step: the measured times of the ways it takes, added up, as Markdown.

python bench/predict_step.py

16 images of 28 x 28 x 768, 8 blocks, DIA 4, rank 64, bf16, on an H200. `way` is a row of results/cuda/
2026-11-28-nvidia-h200-ways.json (L2 flushed before each call); `step` and `task flow` are kernels of -profile.json, in
a later task's step and in one without base blocks. What no file holds is derived, and says from what.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from tables import markdown  # noqa: E402

MEASURED = Path(__file__).parent / "results" / "cuda"
BLOCKS, COUPLINGS = 8, 4  # of the base flow, of the task flow
COPY = 4.2e6  # bytes a microsecond
MULTIPROCESSORS = 132
VALUES = 4 * 16 * 28 * 28 * 768  # bytes of a batch of features
TINY, TINY_US = 21, 1.3  # launches that stay (scales of adapter and mixer, sums of losses), and the usual time of one
TODAY = ("relu_product", "relu_gradient_product", "coupling_product")

GATHER = "gather context const-size warps 8"
BOTH_FIRST = "relu persistent 1536x768 (128, 256, 64, 8, 3)"
TASK_LAYER = "relu persistent 768x384 (128, 128, 64, 4, 4)"
COUPLING = "coupling seq K=768 keep (64, 128, 64, 4, 4)"
TASK_COUPLING = "coupling seq K=384 keep (64, 128, 64, 4, 4)"
HIDDEN = "grad tma 768x384 (128, 128, 64, 8, 3)"
TASK_HIDDEN = "grad tma 384x384 (128, 128, 64, 8, 3)"
DENSE = "cublas weight gradient channel-major 1536x768"
TASK_DENSE_FIRST = "cublas weight gradient channel-major 768x384"
TASK_DENSE = "cublas weight gradient channel-major 384x384"
INPUT_GRADIENT = "nvjet_sm90_tst_192x192_64x3_1x2_h_bz_coopB_NTN"


class Measured:
    """The files; KeyError for what is in none of them."""

    def __init__(self) -> None:
        ways, profile = (_read(f"2026-11-28-nvidia-h200-{name}.json") for name in ("ways", "profile"))
        self.ways: dict[str, Any] = ways
        self.whole = profile["step|later task, 28x28|triton-bf16"]
        self.kernels = {kernel["name"]: kernel for kernel in self.whole["kernels"]}
        alone = profile["step|later task, 28x28, DIA only|triton-bf16"]["kernels"]
        self.task_flow = {kernel["name"]: kernel for kernel in alone}

    def way(self, name: str) -> float:
        return self.ways[name]["cold_us"]

    @property
    def gap_us(self) -> float:
        """Between two kernels of a step."""
        return (1e3 * self.whole["time"]["median_ms"] - self.whole["kernel_us"]) / self.whole["launches"]

    @property
    def in_a_step(self) -> float:
        """What the kernels of products take in a step, of what they take on their own with a cold cache."""
        cold = sum(
            BLOCKS * self.way(f"today {name} as launched")
            + COUPLINGS * layers * self.way(f"today {name}, {task} as launched")
            for name, task, layers in (
                ("relu_product", "task flow, first", 2),  # the middle layer has the same products
                ("relu_gradient_product", "task flow", 2),
                ("coupling_product", "task flow", 1),
            )
        )
        return sum(self.kernels[f"_{name}"]["us"] for name in TODAY) / cold


@dataclass(frozen=True)
class Line:
    """A part of a step: `launches` of `us` together, so many times. `cold`: timed on its own, with a cold cache."""

    what: str  # of WHAT
    part: str
    times: int
    launches: int
    us: float
    source: str
    cold: bool = False


def lines(files: Measured) -> list[Line]:
    """Of the whole step."""
    return [*_base_block(files), *_task_coupling(files), *_around(files)]


def _base_block(files: Measured) -> Iterator[Line]:
    def way(what: str, part: str, name: str, calls: int = 1) -> Line:
        return _way(files, what, f"base block: {part}", BLOCKS, name, calls, launches=1)

    context = (files.kernels["_gather_rows"]["us"] - files.task_flow["_gather_rows"]["us"]) / BLOCKS
    scatter = (files.kernels["_scatter_gradient"]["us"] - files.task_flow["_scatter_gradient"]["us"]) / BLOCKS
    faster = files.way(GATHER) / context
    yield way("gather and scatter", "gather, context", GATHER)
    yield Line(
        "hidden layers", "base block: first layers", BLOCKS, 1, 0.75 * files.way(BOTH_FIRST),
        f"derived: way `{BOTH_FIRST}`, 3/4 of its work", cold=True,
    )  # fmt: skip
    yield way("couplings", "coupling", COUPLING)
    yield _coupling_backward(files, "base block", BLOCKS)
    yield _hidden_gradients(files, "base block: hidden gradients", BLOCKS, 1, HIDDEN, 768)
    yield way("weight and LoRA gradients", "first layers' dense gradients", DENSE)
    yield Line(
        "weight and LoRA gradients", "all blocks: last layers' dense gradients", 1, 1, 0.5 * BLOCKS * files.way(DENSE),
        f"derived: one batched product, half the work of way `{DENSE}` a block", cold=True,
    )  # fmt: skip
    yield Line(
        "weight and LoRA gradients", "all blocks: LoRA factors from them", 1, 1, 40.0,
        f"derived: 94 MB, {94e6 / COPY:.0f} us at the rate of a copy, and 3.0 GFLOP of products of rank 64",
    )  # fmt: skip
    yield Line(
        "gather and scatter", "base block: scatter, context", BLOCKS, 1, faster * scatter,
        f"derived: step less task flow `_scatter_gradient` ({scatter:.1f}), as much faster as the gather "
        f"({context:.1f} to way `{GATHER}`)",
    )  # fmt: skip


def _task_coupling(files: Measured) -> Iterator[Line]:
    def way(what: str, part: str, name: str, calls: int = 1, launches: int = 1) -> Line:
        return _way(files, what, f"task coupling: {part}", COUPLINGS, name, calls, launches)

    def kernel(part: str, name: str) -> Line:
        us = files.task_flow[name]["us"] / files.task_flow[name]["launches"]
        return Line("gather and scatter", f"task coupling: {part}", COUPLINGS, 1, us, f"task flow `{name}`")

    yield kernel("gather", "_gather_rows")
    yield way("hidden layers", "first and middle layers", TASK_LAYER, calls=2, launches=2)
    yield way("couplings", "coupling", TASK_COUPLING)
    yield _coupling_backward(files, "task coupling", COUPLINGS)
    yield _hidden_gradients(files, "task coupling: two hidden gradients", COUPLINGS, 2, TASK_HIDDEN, 384)
    yield way("weight and LoRA gradients", "first layers' gradients", TASK_DENSE_FIRST)
    yield way("weight and LoRA gradients", "middle and last layers' gradients", TASK_DENSE, calls=4, launches=2)
    yield kernel("scatter", "_scatter_gradient")


def _around(files: Measured) -> Iterator[Line]:
    def kernels(what: str, part: str, *names: str) -> Line:
        found = [files.kernels[name] for name in names]
        launches, us = (round(sum(kernel[key] for kernel in found), 1) for key in ("launches", "us"))
        return Line(what, part, 1, int(launches), us, "step " + ", ".join(f"`{name}`" for name in names))

    yield kernels("input gradients", "input gradients of all blocks", INPUT_GRADIENT)
    yield kernels("AdamP", "AdamP and its norm", "_advance", "_measure", "_move", "_decide", "_clip", "_project_layer")
    yield kernels("around the blocks", "adapter", "_whitening", "_whitening_backward")
    mixer = files.kernels["_depthwise"]["us"]
    yield Line(
        "around the blocks", "mixer", 1, 2, 2 * 2 * VALUES / COPY * 1.2,
        f"derived: 77 MB each way at 5/6 of a copy's rate, since a line is read once ({mixer:.1f} us today)",
    )  # fmt: skip
    yield kernels("around the blocks", "loss", "_patch_nll", "_latent_gradient", "_image_sums", "_combine")
    yield Line("around the blocks", "sums of squares, log-determinants", 1, 1, 3.0, "derived: 4 MB of partial sums")
    both = {name: files.kernels[name]["us"] / files.kernels[name]["launches"] for name in ("_enter", "_leave")}
    yield Line("around the blocks", "enter and leave", 1, 2, sum(both.values()), "step `_enter`, `_leave`, once each")
    yield kernels("around the blocks", "batch into the graph", "Memcpy DtoD (Device -> Device)")
    yield Line(
        "merge", "merge of all layers", 1, 1, 35.0,
        f"derived: 80 MB, {80e6 / COPY:.0f} us at the rate of a copy; 1.5 GFLOP in fp32, 28 us at 54 TFLOP/s, of which "
        "our fp32 products reach 80%",
    )  # fmt: skip
    yield Line("small launches", "sums over tokens", 1, 1, 10.0, "derived: at most 30 MB of partial sums")
    yield Line(
        "small launches", "the rest", TINY, 1, TINY_US, f"derived: {TINY_US} us each, as small launches take today"
    )


def _way(files: Measured, what: str, part: str, times: int, name: str, calls: int, launches: int) -> Line:
    source = f"way `{name}`" if calls == 1 else f"{calls} x way `{name}`"
    return Line(what, part, times, launches, calls * files.way(name), source, cold=True)


def _hidden_gradients(files: Measured, part: str, times: int, launches: int, name: str, rows: int) -> Line:
    """Both networks in a launch: their tiles of 128 x 128 fill fewer waves than those of two."""
    alone, together = (math.ceil(count * rows // 128 * 98 / MULTIPROCESSORS) for count in (1, 2))
    us = launches * files.way(name) * together / alone
    source = f"derived: way `{name}`, {together} waves of tiles for both networks, {alone} for one"
    return Line("hidden gradients", part, times, launches, us, source, cold=True)


def _coupling_backward(files: Measured, part: str, times: int) -> Line:
    kernel = files.kernels["_coupling_backward"]
    us = kernel["us"] / kernel["launches"] * 77 / 96
    why = "derived: step `_coupling_backward`, 77 of its 96 MB with s and x2 in bf16"
    return Line("couplings, backward", f"{part}: coupling, backward", times, 1, us, why)


# What a kernel of today's step is for, by its name; the first that holds.
WHAT: dict[str, Callable[[str], bool]] = {
    "couplings": lambda name: name == "_coupling_product",
    "hidden gradients": lambda name: name == "_relu_gradient_product",
    "hidden layers": lambda name: name == "_relu_product",
    "gather and scatter": lambda name: name in ("_gather_rows", "_scatter_gradient"),
    "couplings, backward": lambda name: name == "_coupling_backward",
    "input gradients": lambda name: name == INPUT_GRADIENT,
    "weight and LoRA gradients": lambda name: name.startswith("nvjet") or "splitKreduce" in name,
    "merge": lambda name: name == "_merge",
    "AdamP": lambda name: name in ("_advance", "_measure", "_move", "_decide", "_clip", "_project_layer"),
    "around the blocks": lambda name: name.startswith(("_", "Memcpy DtoD")),
    "small launches": lambda name: True,
}


def today(files: Measured) -> dict[str, tuple[float, float]]:
    """Launches and microseconds of what the step does now, by `WHAT`."""
    found = dict.fromkeys(WHAT, (0.0, 0.0))
    for name, kernel in files.kernels.items():
        what = next(what for what, holds in WHAT.items() if holds(name))
        launches, us = found[what]
        found[what] = launches + kernel["launches"], us + kernel["us"]
    return found


def detail(every: list[Line]) -> str:
    """Every line, and where its time is from."""
    cells = [
        (x.part, str(x.times), str(x.times * x.launches), f"{x.us:.1f}", f"{x.times * x.us:.0f}", x.source)
        for x in every
    ]
    return markdown(("part", "times", "launches", "us each time", "us", "from"), cells)


def comparison(files: Measured, every: list[Line]) -> str:
    """Measured before and predicted after, by `WHAT`; last the step."""
    now, cells = today(files), []
    for what, (launches, us) in now.items():
        own = [line for line in every if line.what == what]
        cells.append((what, launches, us, sum(x.times * x.launches for x in own), sum(x.times * x.us for x in own)))
    whole = [sum(column) for column in list(zip(*cells, strict=True))[1:]]
    gaps = [files.gap_us * launches for launches in (whole[0], whole[2])]
    cells += [("between kernels", 0, gaps[0], 0, gaps[1])]
    cells += [("step", whole[0], whole[1] + gaps[0], whole[2], whole[3] + gaps[1])]
    titles = ("what", "launches", "us, measured", "launches, predicted", "us, predicted", "saved")
    return markdown(titles, (
        (what, f"{a:,.0f}" if a else "", f"{b:,.0f}", f"{c:,.0f}" if c else "", f"{d:,.0f}", f"{b - d:,.0f}")
        for what, a, b, c, d in cells
    ))  # fmt: skip


def milliseconds(files: Measured, every: list[Line]) -> tuple[float, float]:
    """Of a step: every part as it was timed; and those with a cold cache as much faster as today's are in a step."""
    gaps = files.gap_us * sum(line.times * line.launches for line in every)
    cold = sum(line.times * line.us for line in every if line.cold)
    rest = sum(line.times * line.us for line in every if not line.cold)
    return (cold + rest + gaps) / 1e3, (files.in_a_step * cold + rest + gaps) / 1e3


def _read(name: str) -> Any:
    return json.loads((MEASURED / name).read_text())


def main() -> None:
    files = Measured()
    every = lines(files)
    as_timed, in_a_step = milliseconds(files, every)
    print(f"{detail(every)}\n\n{comparison(files, every)}\n")
    print(
        f"Predicted: {as_timed:.2f} ms, {files.gap_us:.2f} us between kernels included. Today's products take "
        f"{files.in_a_step:.2f} of their cold time in a step; if the new ones do too: {in_a_step:.2f} ms."
    )


if __name__ == "__main__":
    main()
