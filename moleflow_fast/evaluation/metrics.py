"""Exact detection metrics over millions of scores from one sort: in the compiled part, or on a GPU if they are there.

+inf and NaN scores rank as the most anomalous, so a broken score can raise a false alarm but never hide a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from moleflow_fast._compiled import compiled
from moleflow_fast.evaluation.device_ranking import pixel_figures, ranked_figures
from moleflow_fast.evaluation.regions import DefectivePixels, binary, defective_pixels

FPR_LIMIT = 0.3  # of AUPRO


class RankingMetrics(NamedTuple):
    """All NaN where one of the two classes is missing."""

    auroc: float
    average_precision: float
    best_f1: float
    best_f1_threshold: float  # scores >= this are called anomalous; the highest of several equally good ones


class PixelMetrics(NamedTuple):
    """All NaN where no pixel is defective, or none is normal."""

    auroc: float
    average_precision: float
    best_f1: float
    best_f1_threshold: float  # as in RankingMetrics
    aupro: float


def ranking_metrics(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> RankingMetrics:
    """AUROC, average precision and the best F1 from one sort.

    Args:
        scores: any shape; larger is more anomalous.
        labels: same shape, 0 (normal) or 1 (anomalous).

    Raises:
        ValueError: shapes differ, or a label is neither 0 nor 1.
    """
    if isinstance(scores, Tensor) and scores.is_cuda:
        return _on_device(scores.detach(), torch.as_tensor(labels, device=scores.device))
    values, truth = _scores(scores), binary(labels)
    _check_shapes(values.shape, truth.shape, "scores", "labels")
    defects = np.flatnonzero(truth)
    weights = np.full(len(defects), 1 / max(len(defects), 1))  # as if each were a region; that area is not looked at
    return RankingMetrics(*_ranked(values, defects, weights, FPR_LIMIT)[:4])


def pixel_metrics(maps: Tensor | ArrayLike, defects: DefectivePixels, fpr_limit: float = FPR_LIMIT) -> PixelMetrics:
    """AUROC, average precision, the best F1 and AUPRO (see `aupro`) from one sort.

    Args:
        maps: pixel scores (N, H, W); larger is more anomalous.
        defects: those of the masks of these maps.
        fpr_limit: in (0, 1].

    Raises:
        ValueError: maps and masks differ in shape, or fpr_limit is out of range.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")
    if isinstance(maps, Tensor) and maps.is_cuda:
        _check_shapes(maps.shape, defects.shape, "maps", "masks")
        places, weights = defects.places.to(maps.device), defects.weights.to(maps.device)
        return PixelMetrics(*pixel_figures(_widened(maps.detach()).flatten(), places, weights, fpr_limit))
    values = _scores(maps)
    _check_shapes(values.shape, defects.shape, "maps", "masks")
    return PixelMetrics(*_ranked(values, defects.places.numpy(), defects.weights.numpy(), fpr_limit))


def auroc(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; NaN with a single class."""
    return ranking_metrics(scores, labels).auroc


def average_precision(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """sum (R_n - R_{n-1}) P_n over the distinct thresholds, as scikit-learn defines it; NaN with a single class."""
    return ranking_metrics(scores, labels).average_precision


def best_f1(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> tuple[float, float]:
    """(largest F1, its threshold) over all distinct thresholds."""
    metrics = ranking_metrics(scores, labels)
    return metrics.best_f1, metrics.best_f1_threshold


def aupro(maps: Tensor | ArrayLike, masks: Tensor | ArrayLike, fpr_limit: float = FPR_LIMIT) -> float:
    """Area under the per-region-overlap curve (Bergmann et al., IJCV 2021) up to a false positive rate, over that rate.

    Every distinct score is a threshold. A region is an 8-connected component of a mask.

    Args:
        maps: pixel scores (N, H, W).
        masks: same shape, 1 where defective.
        fpr_limit: in (0, 1].

    Returns:
        In [0, 1]; NaN where no mask has a defect, or no pixel is normal.

    Raises:
        ValueError: shapes differ or are not (N, H, W), a mask value is neither 0 nor 1, or fpr_limit is out of range.
    """
    return pixel_metrics(maps, defective_pixels(masks), fpr_limit).aupro


def _ranked(
    values: NDArray[Any], defects: NDArray[np.int64], weights: NDArray[np.float64], fpr_limit: float
) -> tuple[float, float, float, float, float]:
    return compiled.ranked_figures(values.ravel(), defects, weights, fpr_limit, torch.get_num_threads())


def _on_device(scores: Tensor, labels: Tensor) -> RankingMetrics:
    """Both on one device."""
    _check_shapes(scores.shape, labels.shape, "scores", "labels")
    return RankingMetrics(*ranked_figures(_widened(scores).flatten(), labels.flatten()))


def _widened(scores: Tensor) -> Tensor:
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.double()


def _scores(scores: Tensor | ArrayLike) -> NDArray[Any]:
    if isinstance(scores, Tensor):
        scores = _widened(scores.detach().cpu()).numpy()
    values = np.asarray(scores)
    return np.ascontiguousarray(values, dtype=np.float32 if values.dtype == np.float32 else np.float64)


def _check_shapes(scores: Sequence[int], labels: Sequence[int], name: str, truth_name: str) -> None:
    if tuple(scores) != tuple(labels):
        raise ValueError(f"{name} {tuple(scores)} and {truth_name} {tuple(labels)} must have the same shape")
