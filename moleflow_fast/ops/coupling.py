"""Affine coupling of the driven half: y2 = x2 * exp(log-scale) + shift, with the log-determinant.

Both clampings of the method are one form: log-scale = clamp * tanh(s_factor * s), shift = t_factor * t.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from moleflow_fast._compiled import compiled
from moleflow_fast.ops.native import threads


class Clamping(NamedTuple):
    """How a network's output becomes log-scale and shift."""

    clamp: float
    s_factor: float
    t_factor: float


def base_clamping(clamp_alpha: float) -> Clamping:
    """Of the base flow (AllInOne, FrEIA 0.2): both outputs times 0.1."""
    return Clamping(clamp_alpha, 0.1, 0.1)


def task_clamping(clamp_alpha: float) -> Clamping:
    """Of a task flow (DIA): the log-scale is c * tanh(s / c)."""
    return Clamping(clamp_alpha, 1.0 / clamp_alpha, 1.0)


Biases = tuple[Tensor | None, Tensor | None]  # of the networks that s and t come from, each (width,)


def coupling(s: Tensor, t: Tensor, biases: Biases, x2: Tensor, y2: Tensor, logdet: Tensor, clamping: Clamping) -> None:
    """y2 = x2 * exp(log-scale) + shift, and the log-scales added to `logdet`; y2 may be x2.

    Args:
        s, t: what the networks say without their biases, (n, width) like x2 and y2.
        logdet: (n,).
    """
    compiled.coupling_forward(s, t, *biases, x2, y2, logdet, clamping, threads())


def coupling_backward(
    s: Tensor, s_bias: Tensor | None, x2: Tensor, dy2: Tensor, dlogdet: Tensor, ds: Tensor, dt: Tensor,
    sums: tuple[Tensor, Tensor], clamping: Clamping,
) -> None:  # fmt: skip
    """dy2 becomes dx2 in place; ds and dt (n, width) are written, their column sums added to `sums`, (width,) each."""
    compiled.coupling_backward(s, s_bias, x2, dy2, dlogdet, ds, dt, *sums, clamping, threads())


class GlobalAffine(NamedTuple):
    """What follows a coupling of the base flow: channel i is scale[p] * v[p] + offset[p], p = source[i]."""

    scale: Tensor  # (D,)
    offset: Tensor  # (D,)
    source: Tensor  # (D,) int32
    split: int  # channels of v that drive the coupling and pass it unchanged


def base_coupling(
    s: Tensor, t: Tensor, biases: Biases, x: Tensor, out: Tensor, logdet: Tensor, affine: GlobalAffine,
    clamping: Clamping,
) -> None:  # fmt: skip
    """`coupling` of the channels from `split` on, then the global affine map and permutation; `out` may be x.

    Args:
        x: (n, D + gap): columns between the halves are not read.
        out: (n, D + gap of its own): columns between the halves are not written.
    """
    scale, offset, source, split = affine
    compiled.base_coupling_forward(s, t, *biases, x, out, logdet, scale, offset, source, split, clamping, threads())


def base_coupling_backward(
    s: Tensor, s_bias: Tensor | None, x2: Tensor, dy: Tensor, dlogdet: Tensor, ds: Tensor, dt: Tensor,
    sums: tuple[Tensor, Tensor], affine: GlobalAffine, clamping: Clamping,
) -> None:  # fmt: skip
    """As `coupling_backward`: dy (n, D) becomes dx in place, but for what comes through the networks."""
    scale, _, source, split = affine
    compiled.base_coupling_backward(
        s, s_bias, x2, dy, dlogdet, ds, dt, *sums, scale, source, split, clamping, threads()
    )


def coupling_reference(x2: Tensor, s: Tensor, t: Tensor, clamping: Clamping) -> tuple[Tensor, Tensor]:
    """The definition: y2 (..., C) and logdet (...) of x2, and s and t with their biases, all (..., C)."""
    log_scale = clamping.clamp * torch.tanh(clamping.s_factor * s)
    return x2 * torch.exp(log_scale) + clamping.t_factor * t, log_scale.sum(-1)
