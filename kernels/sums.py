"""Partial sums over tokens added up for all layers in one launch, straight into the gradients of biases."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 128  # of a program


class Sum(NamedTuple):
    """Columns of partial sums that belong together.

    Attributes:
        first, width: the columns.
        tiles: rows that were written, from the first.
        out: where the totals go, each of them; -1 for nowhere.
    """

    first: int
    width: int
    tiles: int
    out: tuple[int, int]


@triton.jit
def _add_up(parts_ptr, parts_stride, table_ptr, out_ptr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    entry = table_ptr + tl.program_id(0) * 5
    first, width, tiles = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    at = tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    ok = at < width
    # fp64: what comes next divides by a root of squares, and these sums cancel.
    total = tl.zeros((ROWS, BLOCK), tl.float64)
    for start in range(0, tiles, ROWS):
        here = (start + row < tiles)[:, None] & ok[None, :]
        place = parts_ptr + (start + row)[:, None] * parts_stride + (first + at)[None, :]
        total += tl.load(place, mask=here, other=0.0).to(tl.float64)
    whole = tl.sum(total, 0).to(tl.float32)
    for number in tl.static_range(2):
        out = tl.load(entry + 3 + number)
        tl.store(out_ptr + out + at, whole, mask=ok & (out >= 0))


class Sums:
    """The launch for these sums; parts (tiles, columns) and results are given at each call."""

    def __init__(self, sums: tuple[Sum, ...], device: torch.device) -> None:
        table = [
            [s.first + start, min(_COLUMNS, s.width - start), s.tiles, *(o + start if o >= 0 else -1 for o in s.out)]
            for s in sums
            for start in range(0, s.width, _COLUMNS)
        ]
        self._table = torch.tensor(table, device=device)

    def __call__(self, parts: Tensor, out: Tensor) -> None:
        """Totals of parts (tiles, columns) fp32 into out, one-dimensional."""
        _add_up[(len(self._table),)](parts, parts.stride(0), self._table, out, BLOCK=_COLUMNS, ROWS=8, num_warps=4)
