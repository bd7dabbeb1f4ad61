"""Gradients of A and B of all LoRA layers from those of their weights, in one launch.

dA = scaling * B^T dW and dB = scaling * dW A^T for W + scaling * B A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .addresses import aligned, array, size
from .tiles import fitting, precision

# Columns of the table of layers.
_LORA_A = tl.constexpr(0)  # addresses
_LORA_B = tl.constexpr(1)
_DENSE = tl.constexpr(2)  # first element of dW, among the gradients or beside them
_BESIDE = tl.constexpr(3)
_STRIDE = tl.constexpr(4)
_ROWS = tl.constexpr(5)
_COLUMNS = tl.constexpr(6)
_RANK = tl.constexpr(7)
_A_OUT = tl.constexpr(8)  # first elements of the results
_B_OUT = tl.constexpr(9)
_FIELDS = tl.constexpr(10)

_TILE = 64


class LoraLayer(NamedTuple):
    """A layer whose A and B train.

    Attributes:
        lora_a, lora_b: addresses of A (rank, columns) and B (rows, rank), fp32, contiguous.
        dense: first element of dW (rows, columns), whose rows are `stride` apart.
        beside: whether dW stands in a buffer of its own, else among the gradients.
        a_out, b_out: first elements of dA and dB among the gradients.
    """

    lora_a: int
    lora_b: int
    dense: int
    stride: int
    beside: bool
    rows: int
    rank: int
    columns: int
    a_out: int
    b_out: int


@triton.jit
def _lora_gradients(
    table_ptr, tiles_ptr, gradients_ptr, beside_ptr, scaling, ALIGNED: tl.constexpr, TILE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tiles_ptr + tl.program_id(0) * 3
    entry = table_ptr + tl.load(tile) * _FIELDS
    dense = gradients_ptr
    if tl.load(entry + _BESIDE) != 0:
        dense = beside_ptr
    dense += tl.multiple_of(tl.load(entry + _DENSE), 4 if ALIGNED else 1)
    own = tl.load(tile + 2).to(tl.int32) + tl.arange(0, TILE)
    # Not a choice of one and the same product: the operands lie the other way round.
    if tl.load(tile + 1) == 0:
        _first_factor(entry, dense, gradients_ptr, own, scaling, ALIGNED, TILE, BLOCK_R, BLOCK_K, PRECISION)
    else:
        _second_factor(entry, dense, gradients_ptr, own, scaling, ALIGNED, TILE, BLOCK_R, BLOCK_K, PRECISION)


@triton.jit
def _first_factor(
    entry, dense, gradients_ptr, own, scaling, ALIGNED: tl.constexpr, TILE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns `own` of dA (r, in) = scaling * B^T dW."""
    rows, columns, rank = size(entry + _ROWS, False), size(entry + _COLUMNS, ALIGNED), size(entry + _RANK, ALIGNED)
    stride, b_ptr, own_ok = size(entry + _STRIDE, ALIGNED), array(entry + _LORA_B, ALIGNED), own < columns
    for first in range(0, rank, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        r_ok = r < rank
        acc = tl.zeros((BLOCK_R, TILE), tl.float32)
        for start in range(0, rows, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            k_ok = k < rows
            b = tl.load(b_ptr + (k[:, None] * rank + r[None, :]), mask=k_ok[:, None] & r_ok[None, :], other=0.0)
            dw = tl.load(dense + (k[:, None] * stride + own[None, :]), mask=k_ok[:, None] & own_ok[None, :], other=0.0)
            acc = tl.dot(tl.trans(b), dw, acc, input_precision=PRECISION)
        out = gradients_ptr + tl.load(entry + _A_OUT) + (r[:, None] * columns + own[None, :])
        tl.store(out, scaling * acc, mask=r_ok[:, None] & own_ok[None, :])


@triton.jit
def _second_factor(
    entry, dense, gradients_ptr, own, scaling, ALIGNED: tl.constexpr, TILE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows `own` of dB (out, r) = scaling * dW A^T."""
    rows, columns, rank = size(entry + _ROWS, False), size(entry + _COLUMNS, ALIGNED), size(entry + _RANK, ALIGNED)
    stride, a_ptr, own_ok = size(entry + _STRIDE, ALIGNED), array(entry + _LORA_A, ALIGNED), own < rows
    for first in range(0, rank, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        r_ok = r < rank
        acc = tl.zeros((TILE, BLOCK_R), tl.float32)
        for start in range(0, columns, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            k_ok = k < columns
            dw = tl.load(dense + (own[:, None] * stride + k[None, :]), mask=own_ok[:, None] & k_ok[None, :], other=0.0)
            a = tl.load(a_ptr + (r[:, None] * columns + k[None, :]), mask=r_ok[:, None] & k_ok[None, :], other=0.0)
            acc = tl.dot(dw, tl.trans(a), acc, input_precision=PRECISION)
        out = gradients_ptr + tl.load(entry + _B_OUT) + (own[:, None] * rank + r[None, :])
        tl.store(out, scaling * acc, mask=own_ok[:, None] & r_ok[None, :])


class LoraGradients:
    """The launch for these layers; the buffers are given at each call."""

    def __init__(self, layers: Sequence[LoraLayer], scaling: float, device: torch.device) -> None:
        self._scaling = scaling
        self._rank = max(layer.rank for layer in layers)
        # Whether 16 bytes can be copied at a time.
        self._aligned = all(
            aligned([x.lora_a, x.lora_b, 4 * x.dense, 4 * x.stride, 4 * x.columns, 4 * x.rank]) for x in layers
        )
        table, tiles = _tables(layers)
        self._table, self._tiles = torch.tensor(table, device=device), torch.tensor(tiles, device=device)

    def __call__(self, gradients: Tensor, beside: Tensor, coarse: bool) -> None:
        """Write dA and dB among `gradients`, fp32 and one-dimensional as `beside`; `coarse` lets products be tf32."""
        _lora_gradients[(len(self._tiles),)](
            self._table, self._tiles, gradients, beside, self._scaling, ALIGNED=self._aligned, TILE=_TILE,
            BLOCK_R=fitting(self._rank, 64), BLOCK_K=32, PRECISION="tf32" if coarse else precision(torch.float32),
            num_warps=8, num_stages=3,
        )  # fmt: skip


def _tables(layers: Sequence[LoraLayer]) -> tuple[list[list[int]], list[list[int]]]:
    table, tiles = [], []
    for number, layer in enumerate(layers):
        table.append([
            layer.lora_a, layer.lora_b, layer.dense, int(layer.beside), layer.stride, layer.rows, layer.columns,
            layer.rank, layer.a_out, layer.b_out,
        ])  # fmt: skip
        tiles += [[number, 0, start] for start in range(0, layer.columns, _TILE)]
        tiles += [[number, 1, start] for start in range(0, layer.rows, _TILE)]
    return table, tiles
