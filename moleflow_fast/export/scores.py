"""Image scores of maps, of operations that every runtime has: quantiles are order statistics of a `topk`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.ops.image_score import rank_non_finite_as_anomalous


class ImageScores(nn.Module):
    """`models.aggregation.image_scores` for maps of one size.

    Args:
        grid: (H, W) of the maps.
    """

    neighbours: Tensor

    def __init__(self, config: AblationConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.mode = config.score_aggregation_mode
        self.weight = config.cluster_weight
        self.fraction = config.score_aggregation_percentile
        self.patches = grid[0] * grid[1]
        self.top_k = self._top_k(config)
        if self.mode == "spatial_cluster":
            self.fraction = config.cluster_high_score_percentile
            kernel = torch.ones(1, 1, 3, 3)
            kernel[..., 1, 1] = 0
            self.register_buffer("neighbours", kernel)
        # torch.quantile computes its rank in fp32.
        self.rank = float(torch.tensor(self.fraction, dtype=torch.float32) * (self.patches - 1))

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, H, W), +inf where a score could not be computed -> (B,)."""
        return rank_non_finite_as_anomalous(self._scores(maps))

    def _scores(self, maps: Tensor) -> Tensor:
        patches = maps.flatten(1)
        if self.mode == "percentile":
            return self._quantile(patches)
        if self.mode == "mean":
            return patches.mean(1)
        if self.mode == "spatial_cluster":
            clustered = self._top_mean(self._clustered(maps))
            return self.weight * clustered + (1 - self.weight) * self._top_mean(patches)
        return self._top_mean(patches)

    def _top_k(self, config: AblationConfig) -> int:
        wanted = {
            "top_k": config.score_aggregation_top_k,
            "top_k_percent": int(self.patches * config.score_aggregation_top_k_percent),
            "spatial_cluster": int(self.patches * config.tail_top_k_ratio),
        }
        return min(max(wanted.get(self.mode, 1), 1), self.patches)

    def _top_mean(self, patches: Tensor) -> Tensor:
        return patches.topk(self.top_k, dim=1).values.mean(1)

    def _quantile(self, patches: Tensor) -> Tensor:
        """Between the two order statistics around the rank."""
        below, above = math.floor(self.rank), math.ceil(self.rank)
        largest = patches.topk(self.patches - below, dim=1).values
        low, high = largest[:, -1], largest[:, self.patches - 1 - above]
        return rank_non_finite_as_anomalous(low + (self.rank - below) * (high - low))

    def _clustered(self, maps: Tensor) -> Tensor:
        """Patches, the high ones weighted by their high neighbours; (B, H*W)."""
        high = maps > self._quantile(maps.flatten(1))[:, None, None]
        around = F.conv2d(high.to(maps.dtype)[:, None], self.neighbours, padding=1)[:, 0]
        return torch.where(high, maps * (1 + around / 8), maps).flatten(1)
