"""Ledoit and Wolf's shrunk covariance, from sums over images that may be added up over tasks.

    covariance = (1 - a) S + a mu I        S = scatter / n,  mu = trace(S) / D
    a = min(beta, delta) / delta           beta = (fourth / n - |S|^2) / n,  delta = |S - mu I|^2

The rows of a scatter are centred on the mean of their own task. O. Ledoit, M. Wolf, "A well-conditioned estimator for
large-dimensional covariance matrices", 2004. Everything is fp64, and nothing is read from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_VARIANCE = 1e-5  # of a channel on average, where the images show less: one image shows none
LEAST_SHRINKAGE = 1e-5  # keeps a scatter of low rank invertible where the rule asks for none


class Moments(NamedTuple):
    """Sums over centred rows x of features."""

    scatter: Tensor  # (D, D): of x x^T
    fourth: Tensor  # (): of |x|^4
    images: int
    tasks: int  # whose means were taken off


class Shrunk(NamedTuple):
    """A covariance, and what one row x has added to it: weight x x^T."""

    covariance: Tensor  # (D, D), positive definite
    weight: Tensor  # ()


def total(moments: Sequence[Moments]) -> Moments:
    """Of all of them together, added up in their order."""
    scatter, fourth = moments[0].scatter.double(), moments[0].fourth.double()
    for more in moments[1:]:
        scatter, fourth = scatter + more.scatter, fourth + more.fourth
    return Moments(scatter, fourth, sum(m.images for m in moments), sum(m.tasks for m in moments))


def shrunk_covariance(moments: Moments) -> Shrunk:
    """Where rows have less than two degrees of freedom the covariance is mu I: they say nothing of directions."""
    n, dim = moments.images, moments.scatter.shape[0]
    empirical = moments.scatter.double() / n
    mu = empirical.trace() / dim
    squares = empirical.square().sum()
    delta = squares - dim * mu.square()
    beta = torch.minimum((moments.fourth.double() / n - squares) / n, delta)
    shrinkage = torch.where(delta > 0, beta / delta, 1.0).clamp(LEAST_SHRINKAGE, 1.0)
    if n - moments.tasks < 2:
        shrinkage = torch.ones_like(shrinkage)
    level = shrinkage * mu.clamp_min(LEAST_VARIANCE)
    identity = torch.eye(dim, dtype=empirical.dtype, device=empirical.device)
    return Shrunk((1 - shrinkage) * empirical + level * identity, (1 - shrinkage) / n)
