"""From images to maps, scores and task ids: one backbone pass, routing, and each image under its own expert."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.ops.density import patch_nll
from moleflow_fast.ops.image_score import rank_non_finite_as_anomalous


class InferenceExecutor:
    """Scores batches whose images may be of different tasks; several threads may use one at once.

    Args:
        extractor: images (B, 3, S, S) -> patches (B, H, W, D).
        positions: adds positions to patches.
        router: names the task of an image feature (B, D).
        config: whether there are positions, and how a map becomes a score.
    """

    def __init__(
        self,
        extractor: Callable[[Tensor], Tensor],
        positions: PositionalEmbeddingGenerator,
        flow: MoLESpatialAwareNF,
        router: PrototypeRouter,
        config: AblationConfig,
    ) -> None:
        self.extractor = extractor
        self.positions = positions
        self.flow = flow
        self.router = router
        self.config = config

    @torch.no_grad()
    def __call__(self, images: Tensor, task_id: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Anomaly maps (B, H, W) = -log p per patch, image scores (B,), task ids (B,) of images (B, 3, S, S).

        The backbone runs once: the mean over its patches routes, the patches are scored. A `task_id` is the
        expert for every image; None routes each.
        """
        patches = self.extractor(images)
        if task_id is None:
            ids = self.router.route(patches.mean((1, 2)))
        else:
            ids = torch.full((len(patches),), task_id, device=patches.device)
        maps = self.anomaly_maps(patches, ids)
        return maps, image_scores(maps, self.config), ids

    @torch.no_grad()
    def anomaly_maps(self, patches: Tensor, task_ids: Tensor) -> Tensor:
        """-log p per patch (B, H, W), each image of patches (B, H, W, D) under its own task's expert."""
        self.flow.eval()
        maps = patches.new_empty(patches.shape[:-1])
        for task_id in task_ids.unique().tolist():
            chosen = task_ids == task_id
            maps[chosen] = patch_nll(*self.flow.forward_as(task_id, self.add_positions(patches[chosen])))
        return rank_non_finite_as_anomalous(maps)

    def add_positions(self, patches: Tensor) -> Tensor:
        """patches (B, H, W, D) with positions, unless the ablation leaves them out."""
        if not self.config.use_pos_embedding:
            return patches
        return self.positions((patches.shape[1], patches.shape[2]), patches)
