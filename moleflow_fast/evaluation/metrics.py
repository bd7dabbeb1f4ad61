"""Exact detection metrics over millions of scores, computed by the compiled part; those of one ranking on a GPU, if
the scores are there.

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
from moleflow_fast.evaluation.device_ranking import ranked_figures


class RankingMetrics(NamedTuple):
    """All NaN where one of the two classes is missing."""

    auroc: float
    average_precision: float
    best_f1: float
    best_f1_threshold: float  # scores >= this are called anomalous; the highest of several equally good ones


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
    values, truth = _scores(scores), _labels(labels)
    _check_shapes(values.shape, truth.shape, "scores", "labels")
    return RankingMetrics(*compiled.ranking_metrics(values.ravel(), truth.ravel(), torch.get_num_threads()))


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


def aupro(maps: Tensor | ArrayLike, masks: Tensor | ArrayLike, fpr_limit: float = 0.3) -> float:
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
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")
    values, truth = _scores(maps), _labels(masks)
    _check_shapes(values.shape, truth.shape, "maps", "masks")
    if values.ndim != 3:
        raise ValueError(f"maps must be (N, H, W), got {values.shape}")
    return float(compiled.aupro(values, truth, fpr_limit, torch.get_num_threads()))


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


def _labels(labels: Tensor | ArrayLike) -> NDArray[np.uint8]:
    values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError("labels and masks must be 0 or 1: threshold a grey mask first")
    return np.ascontiguousarray(values, dtype=np.uint8)


def _check_shapes(scores: Sequence[int], labels: Sequence[int], name: str, truth_name: str) -> None:
    if tuple(scores) != tuple(labels):
        raise ValueError(f"{name} {tuple(scores)} and {truth_name} {tuple(labels)} must have the same shape")
