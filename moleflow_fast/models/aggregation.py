"""Image scores as the configuration wants them."""

from __future__ import annotations

from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.ops.image_score import image_score


def image_scores(maps: Tensor, config: AblationConfig) -> Tensor:
    """Aggregate maps (B, H, W) to scores (B,) by `config.score_aggregation_mode`."""
    mode = config.score_aggregation_mode
    patches = maps.shape[1] * maps.shape[2]
    if mode == "percentile":
        return image_score(maps, "percentile", fraction=config.score_aggregation_percentile)
    if mode == "top_k":
        return image_score(maps, "top_k", top_k=config.score_aggregation_top_k)
    if mode == "top_k_percent":
        return image_score(maps, "top_k", top_k=int(patches * config.score_aggregation_top_k_percent))
    if mode == "max":
        return image_score(maps, "top_k", top_k=1)
    if mode == "mean":
        return image_score(maps, "mean")
    return image_score(
        maps,
        "spatial_cluster",
        fraction=config.cluster_high_score_percentile,
        top_k=int(patches * config.tail_top_k_ratio),
        weight=config.cluster_weight,
    )
