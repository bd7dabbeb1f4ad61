"""Mahalanobis distances of features to several Gaussians at once, sqrt((x - mean)^T precision (x - mean)).

The square is never expanded: x^T P x - 2 x^T P m + m^T P m cancels. With the Cholesky factor P = L L^T it is |L^T d|^2,
a sum without cancellation and half the multiplications; only blocks of L that are not zero are stored, and all
Gaussians are one batched product. Prototypes of fewer images than channels have precisions of condition 1e6, where
d^T P d in fp32 is right to 2e-3 (768 channels, 200 images, a training image's own prototype) and this to 1e-6.
With 15 prototypes, 768 channels, fp32, two cores of an EPYC with AVX-512: 1.2 ms for one row and 2.2 for 16, against
2.8 and 4.2 for one product after another.

Gaussians of one covariance C C^T need no product each: with W = C^-1 the distance is |W (x - c) - W (mean - c)|, where
c is the middle of the means, so that no large numbers are subtracted. With 15 prototypes, 768 channels, fp32, one core:
0.09 ms for one row and 0.33 for 16, against 1.2 and 1.9 where each has a covariance of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from moleflow_fast.backend import runs_on_triton
from moleflow_fast.ops import native

_BLOCKS = 4  # on a CPU: 10/16 of the square; more blocks are narrower and no faster
_CHUNK_BYTES = 32 * 2**20  # of differences from all means


class GaussianStack(NamedTuple):
    """T Gaussians laid out for `mahalanobis_distances`."""

    means: Tensor  # (T, D)
    blocks: tuple[Tensor, ...]  # (T, D - start, width): columns of lower triangles, from the diagonal down
    factored: Tensor  # (), bool: the triangles are Cholesky factors; otherwise F with d^T F d = d^T P d


class SharedGaussians(NamedTuple):
    """T Gaussians of one covariance, whitened."""

    means: Tensor  # (T, D): (mean - centre) @ whitening
    centre: Tensor  # (D,)
    whitening: Tensor  # (D, D), upper triangle: W^T


Gaussians = GaussianStack | SharedGaussians


def stack_gaussians(means: Sequence[Tensor], precisions: Sequence[Tensor]) -> GaussianStack:
    """Lay out means (D,) and precisions (D, D), which need be neither symmetric nor definite.

    Nothing is read from the device. On a GPU a triangle is one block: the kernel skips its zeros by itself.

    Raises:
        ValueError: none given, or they differ in shape, dtype or device.
    """
    if not stackable(means, precisions):
        raise ValueError("Gaussians must be at least one, and of one shape, dtype and device")
    triangles, factored = _triangles(precisions)
    dim, count = means[0].shape[0], _BLOCKS if means[0].is_cpu else 1
    edges = sorted({dim * b // count for b in range(count + 1)})
    blocks = [torch.stack([t[start:, start:end] for t in triangles]) for start, end in pairwise(edges)]
    return GaussianStack(torch.stack(list(means)), tuple(blocks), factored)


def share_gaussians(means: Sequence[Tensor], covariance: Tensor) -> SharedGaussians:
    """Lay out means (D,) around one positive definite covariance (D, D); nothing is read from the device.

    Raises:
        ValueError: no mean, or they differ in shape, dtype or device.
    """
    if not stackable(means, []):
        raise ValueError("Gaussians must be at least one, and of one shape, dtype and device")
    wide = torch.stack(list(means)).double()
    known = wide.nan_to_num(0, 0, 0)
    centre = ((known.amin(0) + known.amax(0)) / 2).to(means[0].dtype)  # whatever their order
    factor, _ = torch.linalg.cholesky_ex(covariance.double())
    identity = torch.eye(len(centre), dtype=factor.dtype, device=factor.device)
    whitening = torch.linalg.solve_triangular(factor, identity, upper=False).T
    whitened = (wide - centre) @ whitening
    return SharedGaussians(*(t.to(centre).contiguous() for t in (whitened, centre, whitening)))


def stackable(means: Sequence[Tensor], precisions: Sequence[Tensor]) -> bool:
    """Whether `stack_gaussians` takes them."""
    kinds = {(m.shape, m.dtype, m.device) for m in means} | {(p.shape[1:], p.dtype, p.device) for p in precisions}
    return len(kinds) == 1


def mahalanobis_distances(features: Tensor, gaussians: Gaussians) -> Tensor:
    """Distances (n, T) of features (n, D), which are taken to the means' dtype and device; NaN stays NaN.

    fp32 on a GPU runs in Triton where backend "triton" was asked for.
    """
    means = gaussians.means
    features = features.to(means)
    if _takes_triton(features, gaussians):
        return _on_triton(features, gaussians, torch.arange(len(means), device=means.device))[0]
    return _plain_distances(features, gaussians)


def nearest_gaussians(features: Tensor, gaussians: Gaussians, ids: Tensor) -> tuple[Tensor, Tensor]:
    """`mahalanobis_distances` (n, T), and of `ids` (T,) int64 that of the nearest Gaussian to each row, (n,).

    A NaN distance is farther than any number; of equals the first is the nearest.
    """
    features = features.to(gaussians.means)
    if _takes_triton(features, gaussians):
        return _on_triton(features, gaussians, ids)
    distances = _plain_distances(features, gaussians)
    return distances, nearest_of(distances, ids)


def nearest_of(distances: Tensor, ids: Tensor) -> Tensor:
    """The one of `ids` (T,) with the smallest of each row of distances (n, T), as `nearest_gaussians` has it."""
    return ids.to(distances.device)[distances.nan_to_num(nan=torch.inf).argmin(dim=1)]


def _plain_distances(features: Tensor, gaussians: Gaussians) -> Tensor:
    if isinstance(gaussians, SharedGaussians):
        whitened = (features - gaussians.centre) @ gaussians.whitening
        # Never by expanding the square, which cancels.
        return torch.cdist(whitened, gaussians.means, compute_mode="donot_use_mm_for_euclid_dist")
    means = gaussians.means
    rows = max(1, _CHUNK_BYTES // (means.numel() * means.element_size()))
    return torch.cat([_distances(chunk, gaussians) for chunk in features.split(rows)])


def mahalanobis_distances_reference(features: Tensor, means: Sequence[Tensor], precisions: Sequence[Tensor]) -> Tensor:
    """The definition, one Gaussian after another."""
    distances = []
    for mean, precision in zip(means, precisions, strict=True):
        difference = features.to(mean) - mean
        # Rounding can make the square of a tiny distance negative; a NaN distance stays NaN.
        distances.append(((difference @ precision) * difference).sum(-1).clamp_min(0).sqrt())
    return torch.stack(distances, dim=1)


def _distances(features: Tensor, gaussians: GaussianStack) -> Tensor:
    difference = features - gaussians.means[:, None]  # (T, n, D)
    squares = features.new_zeros(difference.shape[:2])
    start = 0
    for block in gaussians.blocks:
        below = difference[..., start:]
        product = torch.bmm(below, block)  # (T, n, width)
        width = block.shape[-1]
        squares += (product * _choose(gaussians.factored, product, below[..., :width])).sum(-1)
        start += width
    return squares.clamp_min(0).sqrt().T


def _takes_triton(features: Tensor, gaussians: Gaussians) -> bool:
    matrices = [gaussians.whitening] if isinstance(gaussians, SharedGaussians) else gaussians.blocks
    why_not = native.forward_only(features, gaussians.means, *matrices)
    return len(features) > 0 and runs_on_triton(features, why_not=why_not)


def _on_triton(features: Tensor, gaussians: Gaussians, ids: Tensor) -> tuple[Tensor, Tensor]:
    # Imported when first needed: an installation for the CPU may lack Triton.
    if isinstance(gaussians, SharedGaussians):
        from moleflow_fast.kernels.shared_mahalanobis import shared_distances_and_nearest

        return shared_distances_and_nearest(features.contiguous(), *gaussians, ids)
    from moleflow_fast.kernels.mahalanobis import distances_and_nearest

    return distances_and_nearest(features.contiguous(), *gaussians, ids)


def _choose(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """torch.where of a condition (), which on a CPU is for nothing."""
    if condition.is_cpu:
        return yes if condition else no
    return torch.where(condition, yes, no)


def _triangles(precisions: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Lower triangles, and whether they are Cholesky factors, (): only if every precision is positive definite.

    One may be singular, or rounded to it. Factors are computed in fp64.
    """
    factors, definite = zip(*map(_cholesky, precisions), strict=True)
    factored = torch.stack(definite).all()
    sums = [torch.tril(p + p.T, -1) + torch.diag(p.diagonal()) for p in precisions]
    return [_choose(factored, f, s) for f, s in zip(factors, sums, strict=True)], factored


def _cholesky(precision: Tensor) -> tuple[Tensor, Tensor]:
    """The lower factor, and whether there is one, ()."""
    symmetric = precision.double()
    factor, info = torch.linalg.cholesky_ex((symmetric + symmetric.T) / 2)
    return factor.to(precision.dtype), (info == 0) & factor.isfinite().all()
