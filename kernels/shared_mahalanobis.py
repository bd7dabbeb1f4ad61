"""Mahalanobis distances of features to Gaussians of one covariance: whitened once, then plain distances."""

import triton
import triton.language as tl
from torch import Tensor

from .mahalanobis import store_nearest
from .tiles import fitting

_COLUMNS = 32  # of the triangle, a program: few images still are programs enough for a GPU
_VALUES = 4096  # of means that a program holds at once
_ANY = ["images", "gaussians"]  # see kernels/mahalanobis.py


@triton.jit(do_not_specialize=["images"])
def _whitened_features(
    x_ptr, centre_ptr, whitening_ptr, out_ptr, images, dim,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[image, n] = sum of (x - centre)[k] whitening[k, n]."""
    image_tiles = tl.cdiv(images, BLOCK_M)
    m = tl.program_id(0) % image_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    tile = tl.program_id(0) // image_tiles
    n, k = tile * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    m_ok, n_ok = m < images, n < dim
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, tl.minimum((tile + 1) * BLOCK_N, dim), BLOCK_K):  # below the diagonal there are only zeros
        row = first + k
        row_ok = row < dim
        x = tl.load(
            x_ptr + m.to(tl.int64)[:, None] * dim + row[None, :], mask=m_ok[:, None] & row_ok[None, :], other=0.0
        )
        x -= tl.load(centre_ptr + row, mask=row_ok, other=0.0)[None, :]
        columns = tl.load(
            whitening_ptr + row.to(tl.int64)[:, None] * dim + n[None, :],
            mask=row_ok[:, None] & n_ok[None, :], other=0.0,
        )  # fmt: skip
        acc = tl.dot(x, columns, acc, input_precision="ieee")
    tl.store(out_ptr + m.to(tl.int64)[:, None] * dim + n[None, :], acc, mask=m_ok[:, None] & n_ok[None, :])


@triton.jit(do_not_specialize=_ANY)
def _nearest_whitened(
    y_ptr, means_ptr, ids_ptr, distances_ptr, nearest_ptr, images, gaussians, dim,
    BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0)
    g = tl.arange(0, BLOCK_G)
    g_ok = g < gaussians
    squares = tl.zeros((BLOCK_G,), tl.float32)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        d_ok = d < dim
        means = tl.load(means_ptr + g[:, None] * dim + d[None, :], mask=g_ok[:, None] & d_ok[None, :], other=0.0)
        difference = tl.load(y_ptr + image.to(tl.int64) * dim + d, mask=d_ok, other=0.0)[None, :] - means
        squares += tl.sum(difference * difference, 1)
    store_nearest(squares, g, g_ok, image, gaussians, ids_ptr, distances_ptr, nearest_ptr)


def shared_distances_and_nearest(
    x: Tensor, means: Tensor, centre: Tensor, whitening: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Distances (n, T), and the id of the nearest of each image, (n,); products are exact fp32, never tf32.

    Args:
        x: (n, D), contiguous, fp32.
        means: (T, D), contiguous, whitened.
        centre: (D,), taken off features before they are whitened.
        whitening: (D, D), contiguous, an upper triangle.
        ids: (T,) int64.
    """
    images, dim = x.shape
    whitened = x.new_empty(images, dim)
    block_m = fitting(images, 64)
    _whitened_features[(triton.cdiv(images, block_m) * triton.cdiv(dim, _COLUMNS),)](
        x, centre, whitening, whitened, images, dim,
        BLOCK_M=block_m, BLOCK_N=_COLUMNS, BLOCK_K=fitting(dim, 32), num_warps=4, num_stages=3,
    )  # fmt: skip
    distances, nearest = x.new_empty(images, len(means)), ids.new_empty(images)
    block_g = fitting(len(means), 2**16)
    _nearest_whitened[(images,)](
        whitened, means, ids, distances, nearest, images, len(means), dim,
        BLOCK_G=block_g, BLOCK_D=fitting(dim, max(16, _VALUES // block_g)), num_warps=4,
    )  # fmt: skip
    return distances, nearest
