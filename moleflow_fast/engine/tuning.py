"""Measures the ways of the flow's products on this device, each at the sizes of a step, and holds them to each other.

`triton.autotune` does not serve: its choice falls anew where its cache is gone, so it cannot be stored with a run, and
it compares configurations of one kernel, where a way may be the library's product and a pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from triton import TritonError

from moleflow_fast.backend import PRECISIONS, use_precision
from moleflow_fast.engine.flat_gradients import product
from moleflow_fast.engine.graphs import capture
from moleflow_fast.engine.streams import Beside
from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.candidates import BY_IMAGE, candidates
from moleflow_fast.kernels.coupling import coupling_product, logdet_tiles
from moleflow_fast.kernels.operands import Shape
from moleflow_fast.kernels.products import relu_gradient_product, relu_product, sum_tiles
from moleflow_fast.kernels.tiles import launchable, shared_limit
from moleflow_fast.kernels.ways import choose, use_table
from moleflow_fast.kernels.ways_table import Entry, Timing, Way, sorted_entry, table_of_one
from moleflow_fast.ops.coupling import base_clamping
from moleflow_fast.ops.lora_gradients import factored_gradients, gradients_from_dense, weight_gradient

logger = logging.getLogger(__name__)

TOLERANCE = 3e-2  # between ways, of a result's largest value: operands and results of bf16
Run = Callable[[], tuple[Tensor, ...]]  # does an operation in the way of the current table
Timer = Callable[[Run], float]  # microseconds of a call


class Case(NamedTuple):
    """An operation at a size, and what gives it operands."""

    operation: str
    precision: str
    shape: Shape
    build: Callable[[], Run]


class Sizes(NamedTuple):
    """Of a step: channels D, images, tokens an image."""

    channels: int
    images: int
    pitch: int
    device: torch.device

    @property
    def tokens(self) -> int:
        return self.images * self.pitch

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device)

    def rows(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        out = channel_major(count, self.tokens, torch.empty(0, device=self.device), dtype)
        return out.copy_(self.normal(count, self.tokens))

    def weight(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return (self.normal(*shape) / shape[-1] ** 0.5).to(dtype)

    def tasks(self) -> Tensor:
        """Of each image one of two."""
        return torch.arange(self.images, dtype=torch.int32, device=self.device) % 2


def cases(sizes: Sizes) -> Iterator[Case]:
    """Of base blocks and the task flow; what a training step in bf16 waits for comes first."""
    for precision in reversed(PRECISIONS):
        yield from _products(sizes, precision, by_image=False)
        shape = Shape(1, sizes.channels, sizes.channels, sizes.tokens)
        yield Case("lora_gradients", precision, shape, partial(_lora, sizes, precision))
        yield Case("weight_gradients", precision, shape, partial(_weight_gradients, sizes, precision))
    for precision in reversed(PRECISIONS):
        yield from _products(sizes, precision, by_image=True)


def measure(case: Case, device: torch.device, timer: Timer, deadline: float) -> Entry | None:
    """Time each way that the device can launch; None if there was no time for any.

    One that fails, or disagrees with the plainest, is left out and said so.

    Args:
        deadline: of `time.monotonic`; ways that are not begun until then are left out.
    """
    timings: list[Timing] = []
    expected: Sequence[Tensor] = ()
    for way in _launchable(case, device):
        if time.monotonic() > deadline:
            logger.warning("%s: no time left for %s; measure again, what was compiled is kept", _title(case), way)
            continue
        torch.manual_seed(0)  # the same operands for each
        with use_precision(case.precision), use_table(table_of_one(case.operation, way)):
            try:
                run = case.build()
                results = [result.clone() for result in run()]
                expected = expected or results
                off = max(map(_error, results, expected))
                if off > TOLERANCE:
                    logger.warning("%s: %s is left out: it is %.1e from the others", _title(case), way, off)
                    continue
                timings.append(Timing(way, timer(run), measured=True))
            except (TritonError, RuntimeError) as error:
                logger.warning("%s: %s is left out: %s", _title(case), way, str(error).strip().partition("\n")[0])
    return sorted_entry(case.operation, case.precision, case.shape, timings) if timings else None


def replays(run: Run) -> float:
    """Microseconds of a call on a GPU, as one CUDA graph, the median of some with empty caches."""
    from triton.testing import do_bench

    graph = capture(run)
    return 1e3 * do_bench(run if graph is None else graph.replay, warmup=3, rep=12, return_mode="median")


def _launchable(case: Case, device: torch.device) -> Iterator[Way]:
    """The plainest first."""
    itemsize, limit = 2 if case.precision == "bf16" else 4, shared_limit(device)
    for way in reversed(candidates(case.operation, case.precision)):
        if launchable(way.name, case.operation, way.tile, itemsize, limit):
            yield way


def _products(sizes: Sizes, precision: str, by_image: bool) -> Iterator[Case]:
    """Layers of a base block, whose scale network also reads the context, and of the task flow."""
    half, full, tokens = sizes.channels // 2, sizes.channels, sizes.tokens
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    context, alone = (full, half), (half, half)
    hidden: list[tuple[int, tuple[int, ...], Shape]] = [(full, context, Shape(2, full, full + half, tokens))]
    if not by_image:
        hidden += [(half, alone, Shape(2, half, full, tokens)), (full, (half,), Shape(1, full, half, tokens))]
    name = BY_IMAGE if by_image else ""
    for outputs, inner, shape in hidden:
        yield Case(f"relu_product{name}", precision, shape, partial(_hidden, sizes, outputs, inner, dtype, by_image))
    for units in (full,) if by_image else (full, half):
        shape = Shape(2, half, 2 * units, tokens)
        yield Case(f"coupling_product{name}", precision, shape, partial(_coupling, sizes, units, dtype, by_image))
        if not by_image:
            shape = Shape(2, units, full, tokens)
            yield Case("relu_gradient_product", precision, shape, partial(_gradient, sizes, units, dtype))


def _hidden(sizes: Sizes, outputs: int, inner: tuple[int, ...], dtype: torch.dtype, by_image: bool) -> Run:
    shape, tasks = ((2,), sizes.tasks()) if by_image else ((), None)
    rows = len(inner) * outputs
    weight, bias = sizes.weight(*shape, rows, inner[0], dtype=dtype), sizes.normal(*shape, rows)
    first_row = sum(inner[1:]) if inner[0] == inner[-1] else 0
    x, out = sizes.rows(inner[0] + first_row, dtype), sizes.rows(rows, dtype)
    both = inner if len(inner) == 2 else None
    return lambda: (relu_product(weight, bias, x, out, both, first_row, tasks),)


def _gradient(sizes: Sizes, units: int, dtype: torch.dtype) -> Run:
    half = sizes.channels // 2
    weight, dy = sizes.weight(2 * half, units, dtype=dtype), sizes.rows(2 * half, dtype)
    hidden, out = sizes.rows(2 * units, dtype), sizes.rows(2 * units, dtype)
    sums = sizes.normal(sum_tiles(sizes.tokens), 2 * units)

    def run() -> tuple[Tensor, ...]:
        written = relu_gradient_product(weight, dy, hidden, out, 2, sums)
        return out, sums[:written].sum(0)

    return run


def _coupling(sizes: Sizes, units: int, dtype: torch.dtype, by_image: bool) -> Run:
    """What is kept is kept as the engine does; of several tasks, which only inference mixes, nothing is."""
    half, (shape, tasks) = sizes.channels // 2, ((2,), sizes.tasks()) if by_image else ((), None)
    weight, bias = sizes.weight(*shape, 2 * half, units, dtype=dtype), sizes.normal(*shape, 2 * half)
    hidden, state = sizes.rows(2 * units, dtype), sizes.rows(sizes.channels)
    at = torch.arange(half, dtype=torch.int32, device=sizes.device) * 2
    plain = torch.tensor([1.0, 0.0], device=sizes.device)
    pending, affine = plain.repeat(sizes.channels, 1), plain.repeat(half, 1)
    logdet = sizes.rows(logdet_tiles(half, sizes.tokens, dtype))
    kept = None if by_image else (sizes.rows(half, dtype), sizes.rows(half, dtype))

    def run() -> tuple[Tensor, ...]:
        both = (hidden[:units], hidden[units:])
        coupling_product(weight, bias, both, state, at, pending, affine, logdet, base_clamping(1.9), kept, tasks)
        return state, logdet, *(kept or ())

    return run


def _lora(sizes: Sizes, precision: str) -> Run:
    """Of A and B of a layer as wide as the tokens, through the dense gradient or without it."""
    width, rank, scaling = sizes.channels, max(1, sizes.channels // 12), 1 / 64
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = sizes.normal(rank, width) / width**0.5, sizes.normal(width, rank)
    x, dy = sizes.rows(width, dtype).t(), sizes.rows(width, dtype).t()
    shape = Shape(1, width, width, sizes.tokens)

    def run() -> tuple[Tensor, ...]:
        if choose("lora_gradients", shape, precision, sizes.device).name == "dense":
            return gradients_from_dense(a, b, scaling, weight_gradient(x, dy))
        return factored_gradients(a, b, scaling, x, dy)

    return run


def _weight_gradients(sizes: Sizes, precision: str) -> Run:
    """Of a base block's first layers, and the input gradients that the next block waits for."""
    full, half = sizes.channels, sizes.channels // 2
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    weight, dh, x = sizes.weight(2 * full, full, dtype=dtype), sizes.rows(2 * full, dtype), sizes.rows(full, dtype)
    dx, dense = sizes.rows(full, dtype), sizes.normal(2 * full, full)
    shape = Shape(1, full, full, sizes.tokens)

    def run() -> tuple[Tensor, ...]:
        beside = Beside(sizes.device, choose("weight_gradients", shape, precision, sizes.device).name == "beside")
        beside.run(lambda: product(dh, x.t(), dense))
        torch.mm(weight[:, :half].t(), dh, out=dx[:half])
        torch.mm(weight[:full, half:].t(), dh[:full], out=dx[half:])
        beside.join()
        return dense, dx

    return run


def _error(actual: Tensor, expected: Tensor) -> float:
    """Of the largest value; NaN counts as infinite."""
    largest = expected.float().abs().max().clamp_min(1e-30)
    return float(((actual.float() - expected.float()).abs().max() / largest).nan_to_num(nan=torch.inf))


def _title(case: Case) -> str:
    networks, outputs, inner, tokens = case.shape
    return f"{case.operation}, {case.precision}, {networks} x {outputs} of {inner} inputs, {tokens} tokens"
