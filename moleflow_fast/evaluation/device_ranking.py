"""AUROC, average precision, best F1 and AUPRO of scores that are on a GPU, by one sort there."""

from __future__ import annotations

import math
from typing import NamedTuple

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
    valid = ((labels == 0) | (labels == 1)).all()
    at = _counts_at_thresholds(_rankable(scores), labels != 0)
    # One tensor, so that the host waits once.
    is_valid, positives, *sums = torch.stack([f.double() for f in (valid, at.tp[-1], *_sums(at))]).tolist()
    if not is_valid:
        raise ValueError("labels and masks must be 0 or 1: threshold a grey mask first")
    return _figures(positives, scores.numel() - positives, *sums)


def pixel_figures(scores: Tensor, places: Tensor, weights: Tensor, fpr_limit: float) -> tuple[*Figures, float]:
    """The same of pixels, and the area under the curve of mean overlap up to a false positive rate, over that rate.

    Args:
        scores: (n,), fp32 or fp64; NaN ranks as +inf.
        places: (P,) int64, which of them are defective, each once, on the same device.
        weights: (P,) fp64, what each adds to the mean overlap, on the same device.
        fpr_limit: in (0, 1].

    Returns:
        All NaN where no pixel is defective, or none is normal.
    """
    positives, negatives = len(places), scores.numel() - len(places)
    if positives == 0 or negatives == 0:
        return (*_UNDEFINED, math.nan)
    scores = _rankable(scores)
    at = _counts_at_thresholds(scores, torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, places, True))
    area = (weights * _overlap_areas(at, scores[places], negatives, fpr_limit)).sum()
    *sums, area = torch.stack([f.double() for f in (*_sums(at), area)]).tolist()
    return (*_figures(positives, negatives, *sums), area / fpr_limit)


class _Counts(NamedTuple):
    """Distinct scores from the highest down, and how many are called at each, (thresholds,); counts are int64."""

    thresholds: Tensor
    tp: Tensor
    fp: Tensor


def _rankable(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores.isnan(), torch.inf) + 0.0  # -0 becomes 0


def _counts_at_thresholds(scores: Tensor, labels: Tensor) -> _Counts:
    ordered, order = scores.sort(descending=True)
    hits = labels[order].cumsum(0)
    last = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=last[:-1])
    ends = last.nonzero()[:, 0]
    return _Counts(ordered[ends], hits[ends], ends + 1 - hits[ends])


def _sums(at: _Counts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twice the area under the ROC curve in counts, the sum of precisions, the best F1 and its threshold."""
    positives, called = at.tp[-1], at.tp + at.fp
    # In int64, exact: twice the area is at most n^2 / 2.
    twice_area = (_steps(at.fp) * (at.tp + _before(at.tp))).sum()
    precision_sum = ((_steps(at.tp) * at.tp).double() / called).sum()
    f1 = 2.0 * at.tp.double() / (positives + called)
    best = f1.argmax()[None]  # the first, so the highest of several thresholds
    return twice_area, precision_sum, f1[best][0], at.thresholds[best][0]


def _overlap_areas(at: _Counts, scores: Tensor, negatives: int, limit: float) -> Tensor:
    """Of each defective pixel (P,), the area up to `limit` under what it adds to the overlap, were its weight 1.

    It rises from 0 to 1 while the false positives that tie with it are called. So the sum over pixels is the area under
    the curve, without a running sum of floats, whose rounding would depend on how a GPU splits it.
    """
    group = torch.searchsorted(-at.thresholds, -scores)
    start, end = _before(at.fp)[group].double() / negatives, at.fp[group].double() / negatives
    cut = end.clamp(max=limit)
    risen = (cut - start).clamp(min=0)
    width = (end - start).clamp(min=0.5 / negatives)  # where nothing ties, `risen` is 0
    return (limit - cut) + risen.square() / (2 * width)


def _before(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts[:-1]])


def _steps(counts: Tensor) -> Tensor:
    return counts - _before(counts)


def _figures(
    positives: float, negatives: float, twice_area: float, precision_sum: float, f1: float, threshold: float
) -> Figures:
    if positives == 0 or negatives == 0:
        return _UNDEFINED
    return twice_area / (2.0 * positives * negatives), precision_sum / positives, f1, threshold
