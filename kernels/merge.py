"""All weights and biases of a flow as its products read them, in one launch: W + scaling * B A and b + b_t, or casts.

Layers are found by their addresses in a table; results go to one buffer of weights and one of biases.
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

# Columns of the table of layers, the addresses as in `MergedLayer`; one of 0 stands for what a layer lacks.
_WEIGHT = tl.constexpr(0)
_BIAS = tl.constexpr(1)
_TASK_BIAS = tl.constexpr(2)
_LORA_A = tl.constexpr(3)
_LORA_B = tl.constexpr(4)
_ROWS = tl.constexpr(5)
_COLUMNS = tl.constexpr(6)
_RANK = tl.constexpr(7)
_WIDTH = tl.constexpr(8)
_OUT = tl.constexpr(9)
_BIAS_OUT = tl.constexpr(10)
_FIELDS = tl.constexpr(11)

_TILE = 64  # rows and columns of a tile


class MergedLayer(NamedTuple):
    """One linear layer, fp32 and contiguous, and where its results go.

    Attributes:
        weight: W (M, K).
        bias, task_bias: (M,), or None.
        lora_a, lora_b: A (r, K) and B (M, r), or both None.
        width: columns of the result; those beyond K are zeros.
        out: first element of the result (M, width) among the weights.
        bias_out: first element of b + b_t (M,) among the biases.
    """

    weight: Tensor
    bias: Tensor | None
    task_bias: Tensor | None
    lora_a: Tensor | None
    lora_b: Tensor | None
    width: int
    out: int
    bias_out: int

    @property
    def rank(self) -> int:
        return 0 if self.lora_a is None else self.lora_a.shape[0]

    def tensors(self) -> list[Tensor]:
        return [t for t in self[:5] if isinstance(t, Tensor)]


@triton.jit
def _vector(address, at, ok):
    """Elements of a vector, zeros where it is absent."""
    there = ok & (address != 0)
    return tl.load(address.to(tl.pointer_type(tl.float32)) + at, mask=there, other=0.0)


@triton.jit
def _merge(
    table_ptr, tiles_ptr, weights_ptr, biases_ptr, scaling,
    ALIGNED: tl.constexpr, TILE: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tiles_ptr + tl.program_id(0) * 3
    entry = table_ptr + tl.load(tile) * _FIELDS
    m = tl.load(tile + 1).to(tl.int32) + tl.arange(0, TILE)
    n = tl.load(tile + 2).to(tl.int32) + tl.arange(0, TILE)
    rows, columns, width = size(entry + _ROWS, False), size(entry + _COLUMNS, ALIGNED), size(entry + _WIDTH, ALIGNED)
    m_ok, n_ok = m < rows, n < columns
    ok = m_ok[:, None] & n_ok[None, :]
    merged = tl.load(array(entry + _WEIGHT, ALIGNED) + (m[:, None] * columns + n[None, :]), mask=ok, other=0.0)
    rank = size(entry + _RANK, ALIGNED)
    if rank > 0:
        a_ptr, b_ptr = array(entry + _LORA_A, ALIGNED), array(entry + _LORA_B, ALIGNED)
        acc = tl.zeros((TILE, TILE), tl.float32)
        for start in range(0, rank, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            k_ok = k < rank
            b = tl.load(b_ptr + (m[:, None] * rank + k[None, :]), mask=m_ok[:, None] & k_ok[None, :], other=0.0)
            a = tl.load(a_ptr + (k[:, None] * columns + n[None, :]), mask=k_ok[:, None] & n_ok[None, :], other=0.0)
            acc = tl.dot(b, a, acc, input_precision=PRECISION)
        merged += scaling * acc
    out = weights_ptr + tl.multiple_of(tl.load(entry + _OUT), 4 if ALIGNED else 1) + (m[:, None] * width + n[None, :])
    tl.store(out, merged.to(weights_ptr.dtype.element_ty), mask=m_ok[:, None] & (n < width)[None, :])
    if tl.load(tile + 2) == 0:
        bias = _vector(tl.load(entry + _BIAS), m, m_ok) + _vector(tl.load(entry + _TASK_BIAS), m, m_ok)
        tl.store(biases_ptr + tl.load(entry + _BIAS_OUT) + m, bias, mask=m_ok)


class Merge:
    """Merges these layers as often as asked, at the addresses that they have now.

    Args:
        layers: all of one device; at least one.
        scaling: alpha / r of every layer.
        dtype: of the merged weights; biases stay fp32.
    """

    def __init__(self, layers: Sequence[MergedLayer], scaling: float, dtype: torch.dtype) -> None:
        self._layers = layers  # keeps the addresses alive
        self._scaling = scaling
        self._like = layers[0].weight.detach()
        self._dtype = dtype
        self._weights = max(layer.out + layer.weight.shape[0] * layer.width for layer in layers)
        self._biases = max(layer.bias_out + layer.weight.shape[0] for layer in layers)
        self._rank = max(layer.rank for layer in layers)
        table, tiles = _tables(layers)
        self._table = torch.tensor(table, device=self._like.device)
        self._tiles = torch.tensor(tiles, device=self._like.device)
        self._addresses = _addresses(layers)
        # Whether 16 bytes can be copied at a time.
        self._aligned = all(
            aligned([address, 4 * layer.weight.shape[1], 4 * layer.width, 4 * layer.out, 4 * (layer.rank or 4)])
            for layer, addresses in zip(layers, self._addresses, strict=True)
            for address in addresses
        )

    def holds(self, layers: Sequence[MergedLayer]) -> bool:
        """Whether these are the layers, where they were."""
        return self._addresses == _addresses(layers)

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Fresh buffers of weights, in the dtype asked for, and of biases, fp32; what no layer owns is not written."""
        weights = self._like.new_empty(self._weights, dtype=self._dtype)
        biases = self._like.new_empty(self._biases)
        # Rounding to bf16 hides what tf32 takes from the product of B and A.
        exact = precision(torch.float32) if self._dtype == torch.float32 else "tf32"
        _merge[(len(self._tiles),)](
            self._table, self._tiles, weights, biases, self._scaling, ALIGNED=self._aligned, TILE=_TILE,
            BLOCK_K=fitting(self._rank, 32), PRECISION=exact, num_warps=8, num_stages=2,
        )  # fmt: skip
        return weights, biases


def _addresses(layers: Sequence[MergedLayer]) -> list[tuple[int, ...]]:
    return [tuple(0 if t is None else t.data_ptr() for t in layer[:5]) for layer in layers]


def _tables(layers: Sequence[MergedLayer]) -> tuple[list[list[int]], list[list[int]]]:
    table, tiles = [], []
    for number, (layer, addresses) in enumerate(zip(layers, _addresses(layers), strict=True)):
        rows, columns = layer.weight.shape
        table.append([*addresses, rows, columns, layer.rank, layer.width, layer.out, layer.bias_out])
        tiles += [[number, m, n] for m in range(0, rows, _TILE) for n in range(0, layer.width, _TILE)]
    return table, tiles
