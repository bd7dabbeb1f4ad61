"""Squared Mahalanobis distances of features to all Gaussians at once, from blocks of lower triangles."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import fitting

_COLUMNS = 32  # of a triangle, a program: few images to many Gaussians still are programs enough for a GPU


@triton.jit
def _partial_squares(
    x_ptr, means_ptr, block_ptr, factored_ptr, out_ptr, images, gaussians, dim, start, width, tiles,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[tile, image, gaussian]: what a tile of a block's columns adds to a square."""
    image_tiles = tl.cdiv(images, BLOCK_M)
    m = tl.program_id(0) % image_tiles * BLOCK_M + tl.arange(0, BLOCK_M)  # programs beside each other share columns
    tile = tl.program_id(0) // image_tiles % tiles
    gaussian = tl.program_id(0) // (image_tiles * tiles)
    n, k = tile * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    m_ok, n_ok, rows = m < images, n < width, dim - start
    x = x_ptr + m.to(tl.int64)[:, None] * dim + start
    mean = means_ptr + gaussian * dim + start
    block = block_ptr + gaussian.to(tl.int64) * rows * width
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(tile * BLOCK_N, rows, BLOCK_K):  # above the diagonal there are only zeros
        row = first + k
        row_ok = row < rows
        difference = tl.load(x + row[None, :], mask=m_ok[:, None] & row_ok[None, :], other=0.0)
        difference -= tl.load(mean + row, mask=row_ok, other=0.0)[None, :]
        columns = tl.load(
            block + row.to(tl.int64)[:, None] * width + n[None, :], mask=row_ok[:, None] & n_ok[None, :], other=0.0
        )
        acc = tl.dot(difference, columns, acc, input_precision="ieee")
    own = tl.load(x + n[None, :], mask=m_ok[:, None] & n_ok[None, :], other=0.0)
    own -= tl.load(mean + n, mask=n_ok, other=0.0)[None, :]
    squares = tl.sum(acc * tl.where(tl.load(factored_ptr) != 0, acc, own), 1)
    out = out_ptr + (tile.to(tl.int64) * images + m) * gaussians + gaussian
    tl.store(out, squares, mask=m_ok)


def squared_distances(x: Tensor, means: Tensor, blocks: Sequence[Tensor], factored: Tensor) -> Tensor:
    """Squares (n, T), of which rounding can make a tiny one negative; products are exact fp32, never tf32.

    Args:
        x: (n, D), contiguous, fp32.
        means: (T, D), contiguous.
        blocks: (T, D - start, width) each, contiguous: columns of lower triangles, from the diagonal down.
        factored: (), bool: whether |L^T d|^2 is meant, or d^T F d.
    """
    images, dim = x.shape
    tiles = [triton.cdiv(block.shape[2], _COLUMNS) for block in blocks]
    partial = x.new_empty(sum(tiles), images, len(means))
    start = 0
    for block, out in zip(blocks, partial.split(tiles), strict=True):
        _launch(x, means, block, factored.view(torch.uint8), out, start)
        start += block.shape[2]
    return partial.sum(0)


def _launch(x: Tensor, means: Tensor, block: Tensor, factored: Tensor, out: Tensor, start: int) -> None:
    (images, dim), width = x.shape, block.shape[2]
    block_m, tiles = fitting(images, 64), len(out)
    _partial_squares[(triton.cdiv(images, block_m) * tiles * len(means),)](
        x, means, block, factored, out, images, len(means), dim, start, width, tiles,
        BLOCK_M=block_m, BLOCK_N=_COLUMNS, BLOCK_K=fitting(dim, 32), num_warps=4, num_stages=3,
    )  # fmt: skip
