"""AUROC, average precision and best F1 of scores that are on a GPU, by one sort there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Figures = tuple[float, float, float, float]
_UNDEFINED: Figures = (math.nan,) * 4


def ranked_figures(scores: Tensor, labels: Tensor) -> Figures:
    """AUROC, average precision, best F1 and its threshold as the compiled part finds them; its sums are in fp64 too.

    Args:
        scores: (n,), fp32 or fp64; NaN ranks as +inf.
        labels: (n,), 0 or 1, on the same device.

    Returns:
        All NaN where one of the two classes is missing.

    Raises:
        ValueError: a label is neither 0 nor 1.
    """
    if scores.numel() == 0:
        return _UNDEFINED
    thresholds, tp, called = _counts_at_thresholds(scores, labels)
    positives, fp = tp[-1], called - tp
    # In int64, exact: twice the area is at most n^2 / 2.
    twice_area = (_steps(fp) * (tp + _before(tp))).sum()
    precision_sum = ((_steps(tp) * tp).double() / called).sum()
    f1 = 2.0 * tp.double() / (positives + called)
    best = f1.argmax()[None]  # the first, so the highest of several thresholds
    valid = ((labels == 0) | (labels == 1)).all()
    # One tensor, so that the host waits once.
    figures = (valid, positives, twice_area, precision_sum, f1[best][0], thresholds[best][0])
    return _figures(*torch.stack([f.double() for f in figures]).tolist(), count=scores.numel())


def _counts_at_thresholds(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores from the highest down, and how many defects and how many in all are called at each, int64."""
    scores = scores.masked_fill(scores.isnan(), torch.inf) + 0.0  # -0 becomes 0
    ordered, order = scores.sort(descending=True)
    hits = (labels != 0)[order].cumsum(0)
    last = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=last[:-1])
    ends = last.nonzero()[:, 0]
    return ordered[ends], hits[ends], ends + 1


def _before(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts[:-1]])


def _steps(counts: Tensor) -> Tensor:
    return counts - _before(counts)


def _figures(
    valid: float, positives: float, twice_area: float, precision_sum: float, f1: float, threshold: float, *, count: int
) -> Figures:
    if not valid:
        raise ValueError("labels and masks must be 0 or 1: threshold a grey mask first")
    negatives = count - positives
    if positives == 0 or negatives == 0:
        return _UNDEFINED
    return twice_area / (2.0 * positives * negatives), precision_sum / positives, f1, threshold
