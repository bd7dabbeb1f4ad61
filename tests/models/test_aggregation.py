"""Image scores: parity with the published implementation, and what non-finite patches do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moleflow_fast.config import AblationConfig
from moleflow_fast.models.aggregation import image_scores

ARRAYS = np.load(Path(__file__).parents[1] / "golden" / "losses_scores.npz", allow_pickle=False)
AGGREGATIONS = [n.removeprefix("agg/") for n in ARRAYS.files if n.startswith("agg/")]
PARAMETER = {
    "percentile": "score_aggregation_percentile",
    "top_k": "score_aggregation_top_k",
    "top_k_percent": "score_aggregation_top_k_percent",
}
MODES = ["percentile", "top_k", "top_k_percent", "max", "mean", "spatial_cluster"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_golden(name: str, dtype: torch.dtype) -> None:
    mode, _, value = name.partition("/")
    config = AblationConfig(score_aggregation_mode=mode)
    if value:
        config = replace(config, **{PARAMETER[mode]: type(getattr(config, PARAMETER[mode]))(value)})
    scores = image_scores(torch.from_numpy(ARRAYS["scores"]).to(dtype), config)
    expected = torch.from_numpy(ARRAYS[f"agg/{name}"]).to(dtype)
    assert ((scores - expected).abs() / expected.abs()).max() < 1e-5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_non_finite_patches_rank_as_anomalous(mode: str, bad: float) -> None:
    maps = torch.randn(2, 6, 5)
    maps[1] = bad
    scores = image_scores(maps, AblationConfig(score_aggregation_mode=mode))
    assert scores[0].isfinite() and scores[1] == torch.inf


@pytest.mark.parametrize("mode", MODES)
def test_one_patch(mode: str) -> None:
    maps = torch.randn(3, 1, 1)
    scores = image_scores(maps, AblationConfig(score_aggregation_mode=mode))
    torch.testing.assert_close(scores, maps.flatten())
