"""Tile shapes of the flow's products side by side on a GPU, for whoever tunes `tiles` in kernels/products.py.

`python bench/tiles.py` times, in bf16 at the sizes of a base block (16 images of 28 x 28 x 768), the shapes below,
each against the plain definition first. All of them compile for sm_90 with wgmma and without spills, in Triton 3.6.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parent))

from device import ON_GPU  # noqa: E402
from kernel_cases import CASES, Case, Sizes  # noqa: E402
from machine import product_gflops  # noqa: E402

from moleflow_fast.kernels import coupling, products  # noqa: E402

TOLERANCE = 2e-2  # bf16 operands and results


class Tile(NamedTuple):
    """Of the output (rows, tokens) and of the inner dimension, and how a program of that size runs."""

    rows: int
    tokens: int
    inner: int
    warps: int
    stages: int


# 113 registers with two blocks a multiprocessor at 128 x 128, 186 to 242 with one at 256.
HIDDEN = (
    Tile(128, 128, 64, 8, 3), Tile(128, 128, 64, 8, 4), Tile(128, 128, 32, 8, 4), Tile(128, 128, 64, 4, 3),
    Tile(128, 128, 128, 8, 3), Tile(128, 256, 64, 8, 3), Tile(128, 256, 64, 8, 4), Tile(256, 128, 64, 8, 3),
    Tile(64, 256, 64, 4, 3), Tile(64, 128, 64, 4, 3),
)  # fmt: skip
# Two accumulators and what is kept for the backward pass: larger ones spill.
LAST = (
    Tile(64, 128, 64, 8, 3), Tile(64, 128, 64, 8, 4), Tile(64, 128, 128, 8, 3), Tile(128, 64, 64, 8, 4),
    Tile(64, 64, 64, 4, 4),
)  # fmt: skip
CANDIDATES = {"relu_product": HIDDEN, "relu_gradient_product": HIDDEN, "coupling_product": LAST}


@contextmanager
def forced(tile: Tile | None) -> Iterator[None]:
    """In the block products run in tiles of this shape; None: in those that the launcher takes."""
    if tile is None:
        yield
        return

    def config(rows: int, tokens: int, inner: int, dtype: torch.dtype) -> dict:
        return {
            "BLOCK_M": tile.rows,
            "BLOCK_N": tile.tokens,
            "BLOCK_K": tile.inner,
            "PRECISION": products.precision(dtype),
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }

    with ExitStack() as stack:
        stack.enter_context(patch.object(products, "tiles", config))
        stack.enter_context(patch.object(coupling, "_coupling_tiles", config))
        yield


def largest_error(case: Case) -> float:
    """Of a kernel's results, relative to the largest value that the definition gives; NaN counts as infinite."""
    errors = [
        (ours.float() - plain.float()).abs().max() / plain.float().abs().max()
        for ours, plain in zip(case.kernel(), case.definition(), strict=True)
    ]
    return float(torch.stack(errors).nan_to_num(nan=torch.inf).max())


def main() -> None:
    if not ON_GPU:
        raise SystemExit("bench/tiles.py times kernels on a GPU, and there is none")
    from triton.testing import do_bench

    rate = product_gflops(8192, 8192, 8192, "bf16") / 1e3
    print(f"{torch.cuda.get_device_name()}; a bf16 product of 8192 x 8192 x 8192: {rate:.0f} TFLOP/s\n")
    print("| product | rows x tokens x inner, warps, stages | us | TFLOP/s | of the rate |\n|---|---|---|---|---|")
    sizes = Sizes(768, (16, 28, 28), torch.bfloat16)
    for name, candidates in CANDIDATES.items():
        for tile in (None, *candidates):
            torch.manual_seed(0)
            with forced(tile):
                case = CASES[name](sizes)
                error = largest_error(case)
                assert error < TOLERANCE, f"{name} with {tile} is {error:.1e} from its definition"
                us = 1e3 * do_bench(case.kernel, warmup=10, rep=50, return_mode="median")
            flops = 2 * case.work.macs / us / 1e6
            label = "as launched" if tile is None else "{} x {} x {}, {}, {}".format(*tile)
            print(f"| {name} | {label} | {us:.1f} | {flops:.0f} | {flops / rate:.0%} |", flush=True)


if __name__ == "__main__":
    main()
