"""From an anomaly map to one score per image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.config.ablation import AblationConfig


def rank_non_finite_as_anomalous(scores: Tensor) -> Tensor:
    """NaN becomes +inf: a score that could not be computed must never rank as normal."""
    return scores.masked_fill(scores.isnan(), torch.inf)


def image_scores(maps: Tensor, config: AblationConfig) -> Tensor:
    """Aggregate maps (B, H, W) to scores (B,) by `config.score_aggregation_mode`."""
    maps = rank_non_finite_as_anomalous(maps)
    patches = maps.flatten(1)  # (B, H*W)
    mode = config.score_aggregation_mode
    if mode == "percentile":
        return _quantile(patches, config.score_aggregation_percentile)
    if mode == "top_k":
        return _top_mean(patches, config.score_aggregation_top_k)
    if mode == "top_k_percent":
        return _top_mean(patches, int(patches.shape[1] * config.score_aggregation_top_k_percent))
    if mode == "max":
        return patches.amax(1)
    if mode == "mean":
        return patches.mean(1)
    return _spatial_cluster(maps, config)


def _top_mean(patches: Tensor, k: int) -> Tensor:
    """Mean of the k largest patches, 1 <= k <= H*W."""
    k = min(max(k, 1), patches.shape[1])
    return patches.topk(k, dim=1).values.mean(1)


def _quantile(patches: Tensor, fraction: float) -> Tensor:
    """Linear interpolation between order statistics; next to +inf it is +inf where torch.quantile has NaN."""
    return rank_non_finite_as_anomalous(torch.quantile(patches, fraction, dim=1))


def _spatial_cluster(maps: Tensor, config: AblationConfig) -> Tensor:
    """w * mean(top k weighted) + (1 - w) * mean(top k raw).

    A patch strictly above its image's quantile is high; a high patch weighs 1 + (high neighbours of 8) / 8, the
    others 0.
    """
    patches = maps.flatten(1)
    threshold = _quantile(patches, config.cluster_high_score_percentile)
    high = (maps > threshold[:, None, None]).to(maps.dtype)  # (B, H, W)
    kernel = torch.ones(1, 1, 3, 3, dtype=maps.dtype, device=maps.device)
    kernel[..., 1, 1] = 0
    neighbours = F.conv2d(high[:, None], kernel, padding=1)[:, 0]
    weighted = torch.where(high > 0, maps * (1 + neighbours / 8), torch.zeros_like(maps))
    k = int(patches.shape[1] * config.tail_top_k_ratio)
    w = config.cluster_weight
    return w * _top_mean(weighted.flatten(1), k) + (1 - w) * _top_mean(patches, k)
