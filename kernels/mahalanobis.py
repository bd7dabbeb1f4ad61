"""Squared Mahalanobis distances of features to all Gaussians at once, from blocks of lower triangles."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import fitting

_COLUMNS = 32  # of a triangle, a program: few images to many Gaussians still are programs enough for a GPU
# Sizes of a batch and numbers of tasks are many, and none makes the code better: one variant serves all.
_ANY = ["images", "gaussians"]


@triton.jit(do_not_specialize=_ANY)
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


@triton.jit
def store_nearest(square, g, g_ok, image, gaussians, ids_ptr, distances_ptr, nearest_ptr):
    """Distances of an image, and the id of the nearest; NaN is farthest, and of equals the first wins."""
    distance = tl.sqrt_rn(square)
    tl.store(distances_ptr + image * gaussians + g, distance, mask=g_ok)
    far = ~g_ok | (distance != distance)
    place = tl.argmin(tl.where(far, float("inf"), distance), 0)
    tl.store(nearest_ptr + image, tl.load(ids_ptr + place))


@triton.jit(do_not_specialize=_ANY)
def _nearest(
    partial_ptr, ids_ptr, distances_ptr, nearest_ptr, images, gaussians, tiles,
    BLOCK_T: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0)
    g = tl.arange(0, BLOCK_G)
    g_ok = g < gaussians
    squares = tl.zeros((BLOCK_T, BLOCK_G), tl.float32)
    for start in range(0, tiles, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        at = (tile.to(tl.int64) * images + image)[:, None] * gaussians + g[None, :]
        squares += tl.load(partial_ptr + at, mask=(tile < tiles)[:, None] & g_ok[None, :], other=0.0)
    square = tl.sum(squares, 0)
    # Rounding can make a tiny square negative.
    square = tl.where(square < 0.0, 0.0, square)
    store_nearest(square, g, g_ok, image, gaussians, ids_ptr, distances_ptr, nearest_ptr)


def distances_and_nearest(
    x: Tensor, means: Tensor, blocks: Sequence[Tensor], factored: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Distances (n, T), and the id of the nearest of each image, (n,); products are exact fp32, never tf32.

    Args:
        x: (n, D), contiguous, fp32.
        means: (T, D), contiguous.
        blocks: (T, D - start, width) each, contiguous: columns of lower triangles, from the diagonal down.
        factored: (), bool: whether |L^T d|^2 is meant, or d^T F d.
        ids: (T,) int64.
    """
    images, dim = x.shape
    tiles = [triton.cdiv(block.shape[2], _COLUMNS) for block in blocks]
    partial = x.new_empty(sum(tiles), images, len(means))
    start = 0
    for block, out in zip(blocks, partial.split(tiles), strict=True):
        _launch(x, means, block, factored.view(torch.uint8), out, start)
        start += block.shape[2]
    distances, nearest = x.new_empty(images, len(means)), ids.new_empty(images)
    _nearest[(images,)](
        partial, ids, distances, nearest, images, len(means), len(partial),
        BLOCK_T=fitting(len(partial), 32), BLOCK_G=fitting(len(means), 2**16), num_warps=4,
    )  # fmt: skip
    return distances, nearest


def _launch(x: Tensor, means: Tensor, block: Tensor, factored: Tensor, out: Tensor, start: int) -> None:
    (images, dim), width = x.shape, block.shape[2]
    block_m, tiles = fitting(images, 64), len(out)
    _partial_squares[(triton.cdiv(images, block_m) * tiles * len(means),)](
        x, means, block, factored, out, images, len(means), dim, start, width, tiles,
        BLOCK_M=block_m, BLOCK_N=_COLUMNS, BLOCK_K=fitting(dim, 32), num_warps=4, num_stages=3,
    )  # fmt: skip
