"""Exact metrics and map smoothing, compiled, against scikit-learn and scipy on the same arrays.

One class's worth of pixels: 80 maps of 224 x 224 (4.0 million scores, 2 percent anomalous). Same results: see
tests/evaluation/test_metrics.py and test_smoothing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from moleflow_fast.evaluation.metrics import aupro, ranking_metrics
from moleflow_fast.ops.gaussian_smooth import gaussian_smooth

SHAPE = (80, 224, 224)


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def masks(maps: torch.Tensor) -> torch.Tensor:
    smooth = gaussian_smooth(torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), 6.0)
    return smooth > torch.quantile(smooth.flatten()[::7], 0.98)


def _sklearn(maps: torch.Tensor, masks: torch.Tensor) -> tuple[float, float]:
    scores, labels = maps.numpy().ravel(), masks.numpy().ravel()
    return roc_auc_score(labels, scores), average_precision_score(labels, scores)


def _scipy(maps: torch.Tensor) -> np.ndarray:
    return np.stack([gaussian_filter(m, 4.0) for m in maps.numpy()])


@pytest.mark.parametrize("ours", [True, False], ids=["moleflow_fast", "scikit-learn"])
def test_auroc_and_average_precision(benchmark: Any, maps: torch.Tensor, masks: torch.Tensor, ours: bool) -> None:
    function: Callable[..., Any] = ranking_metrics if ours else _sklearn
    benchmark.group = "pixel AUROC and AP of 80 maps (ours: best F1 as well)"
    benchmark.pedantic(function, (maps, masks), rounds=5, warmup_rounds=1)


def test_aupro(benchmark: Any, maps: torch.Tensor, masks: torch.Tensor) -> None:
    benchmark.group = "AUPRO of 80 maps"
    benchmark.pedantic(aupro, (maps, masks), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("ours", [True, False], ids=["moleflow_fast", "scipy"])
def test_gaussian(benchmark: Any, maps: torch.Tensor, ours: bool) -> None:
    benchmark.group = "Gaussian smoothing, sigma 4, of 80 maps"
    if ours:
        benchmark.pedantic(gaussian_smooth, (maps, 4.0), rounds=5, warmup_rounds=1)
    else:
        benchmark.pedantic(_scipy, (maps,), rounds=5, warmup_rounds=1)
