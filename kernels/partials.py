"""Partial sums that programs of a kernel leave, added up in an order that no GPU changes."""

import triton
import triton.language as tl
from torch import Tensor

from .tiles import fitting


@triton.jit
def _add_partials(
    parts_ptr, first_ptr, second_ptr, count, columns, split, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = column < columns
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, count, BLOCK_R):
        part = start + tl.arange(0, BLOCK_R)
        at = part.to(tl.int64)[:, None] * columns + column[None, :]
        total += tl.load(parts_ptr + at, mask=(part < count)[:, None] & ok[None, :], other=0.0)
    result = tl.sum(total, 0)
    tl.store(first_ptr + column, result, mask=column < split)
    tl.store(second_ptr + column - split, result, mask=ok & (column >= split))


def add_partials(parts: Tensor, out: tuple[Tensor, Tensor]) -> None:
    """The sums of parts (P, n) over its rows, written into the first and then the second of `out`.

    Args:
        parts: contiguous fp32.
        out: two contiguous fp32 tensors of n elements together.
    """
    count, columns = parts.shape
    first, second = out
    _add_partials[(triton.cdiv(columns, 32),)](
        parts, first, second, count, columns, first.numel(), BLOCK_R=fitting(count, 64), BLOCK_C=32
    )
