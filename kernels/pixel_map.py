"""Maps between two matrices: resize and smoothing of a batch, one product an axis.

Both products are of fp32 numbers as they are ("ieee"), whatever `allow_tf32` says: maps hold scores of 1e30 beside
ordinary ones, and only the exact zeros of the matrices keep the one out of the other's pixels.
"""

import triton
import triton.language as tl
from torch import Tensor

from .pointers import accumulate
from .tiles import default_tile


@triton.jit
def _batched(
    a_ptr, a_batch_stride, a_row_stride, a_column_stride, b_ptr, b_batch_stride, b_stride, out_ptr, rows, columns,
    inner, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[i] (rows, columns), contiguous, = A[i] (rows, inner) B[i] (inner, columns)."""
    across = tl.cdiv(columns, BLOCK_N)
    count = tl.cdiv(rows, BLOCK_M) * across
    batch, tile = (tl.program_id(0) // count).to(tl.int64), tl.program_id(0) % count
    m = tile // across * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile % across * BLOCK_N + tl.arange(0, BLOCK_N)
    m_ok, n_ok = m < rows, n < columns
    acc = accumulate(
        tl.zeros((BLOCK_M, BLOCK_N), tl.float32), a_ptr + batch * a_batch_stride, m, a_row_stride, a_column_stride,
        b_ptr + batch * b_batch_stride, b_stride, n, inner, m_ok, n_ok, BLOCK_K, PRECISION,
    )  # fmt: skip
    out = out_ptr + batch * rows * columns + m.to(tl.int64)[:, None] * columns + n[None, :]
    tl.store(out, acc, mask=m_ok[:, None] & n_ok[None, :])


def between_matrices(down: Tensor, maps: Tensor, across: Tensor) -> Tensor:
    """down^T (S, h) @ map (h, w) @ across (w, S) for each of maps (N, h, w), fp32; (N, S, S).

    Args:
        down: (h, S), contiguous: what each line of patches gives to each line of pixels.
        maps: contiguous.
        across: (w, S), contiguous.
    """
    images, height, width = maps.shape
    size = across.shape[1]
    wide = maps.new_empty(images, height, size)
    _product(maps.view(1, images * height, width), across[None], wide.view(1, images * height, size))
    return _product(down.T.expand(images, -1, -1), wide, maps.new_empty(images, size, size))


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out (B, M, N), contiguous, = a (B, M, K), any strides, @ b (B, K, N), rows contiguous."""
    batch, rows, columns = out.shape
    tile = default_tile("product", a.itemsize).fitted(rows, columns, a.shape[2])
    programs = batch * triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.tokens)
    _batched[(programs,)](
        a, *a.stride(), b, b.stride(0), b.stride(1), out, rows, columns, a.shape[2], PRECISION="ieee", **tile.options()
    )
    return out
