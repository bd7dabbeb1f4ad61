"""The object that training, evaluation, detectors and exports share; from images to maps, scores and task ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.data.normalization import normalized
from moleflow_fast.engine.captured import CapturedRuns
from moleflow_fast.extractors.base import PatchExtractor
from moleflow_fast.models import published_format
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.ops.image_score import rank_non_finite_as_anomalous


class Scored(NamedTuple):
    """A batch of images as the model sees them."""

    maps: Tensor  # (B, H, W): -log p per patch
    scores: Tensor  # (B,)
    task_ids: Tensor  # (B,)
    distances: Tensor  # (B, tasks): to each task's prototype, in the order of the router's prototypes


class MoLEFlow:
    """Extractor, positions, flow and router; scores batches whose images may be of different tasks.

    Images (B, 3, S, S) are uint8, RGB, and normalised on the device; or normalised already, of floating point. Several
    threads may score with one at once.

    Args:
        extractor: normalised images (B, 3, S, S) -> patches (B, H, W, D).
        positions: adds positions to patches.
        config: whether there are positions, how the router measures, how a map becomes a score; defaults to the flow's.

    Attributes:
        router: names the task of an image feature (B, D).
        task_classes: the classes of each task that was learned.
    """

    def __init__(
        self,
        extractor: Callable[[Tensor], Tensor],
        positions: PositionalEmbeddingGenerator,
        flow: MoLESpatialAwareNF,
        device: torch.device | str = "cpu",
        config: AblationConfig | None = None,
    ) -> None:
        self.extractor = extractor
        self.positions = positions
        self.flow = flow
        self.device = torch.empty(0, device=device).device  # with its number, as its tensors have it
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # kernels, streams and graphs are of the current device
        self.config = config or flow.config
        self.router = PrototypeRouter(self.device, self.config.use_mahalanobis, self.config.router_covariance)
        self.task_classes: dict[int, list[str]] = {}
        self._routed = CapturedRuns(self._score_routed, self._state)
        self._places: tuple[tuple[int, ...], Tensor] = ((), torch.empty(0))

    def learned(self, task_id: int, base_is_frozen: bool) -> dict[str, Tensor]:
        """Of the flow's state what `task_id` adds or may change.

        Args:
            base_is_frozen: whether tasks after the first leave everything alone that an earlier one uses.
        """
        state = self.flow.state_dict()
        if task_id > 0 and base_is_frozen:
            return {n: v for n, v in state.items() if published_format.task_ids([n]) == [task_id]}
        return {n: v for n, v in state.items() if all(t <= task_id for t in published_format.task_ids([n]))}

    @torch.no_grad()
    def __call__(self, images: Tensor, task_id: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Anomaly maps (B, H, W) = -log p per patch, image scores (B,), task ids (B,) of images (B, 3, S, S).

        The backbone runs once: the mean over its patches routes, the patches are scored. A `task_id` is the
        expert for every image; None routes each, see `routed`.

        Raises:
            KeyError: a task that was never added.
        """
        self.flow.require_known(task_id)
        if task_id is None:
            return self.routed(images)[:3]
        patches = self.extractor(self._normalized(images))
        ids = torch.full((len(patches),), task_id, device=patches.device)
        maps = self.anomaly_maps(patches, ids)
        return maps, image_scores(maps, self.config), ids

    @torch.no_grad()
    def routed(self, images: Tensor) -> Scored:
        """Images (B, 3, S, S), each under the expert that it is routed to.

        Where Triton kernels run the flow a batch is one CUDA graph, and the host never learns which tasks it holds.
        """
        captured = self._routed(images) if images.is_cuda else None
        return self._score_routed(images) if captured is None else Scored(*captured)

    @torch.no_grad()
    def known(self, images: Tensor, task_id: int) -> Scored:
        """As `routed`, all images under the expert of one task.

        Raises:
            KeyError: a task that was never added.
        """
        self.flow.require_known(task_id)
        patches, features = self.features_of(images)
        ids = torch.full((len(patches),), task_id, device=patches.device)
        maps = self.anomaly_maps(patches, ids)
        return Scored(maps, image_scores(maps, self.config), ids, self.router.distances(features))

    @torch.no_grad()
    def anomaly_maps(self, patches: Tensor, task_ids: Tensor) -> Tensor:
        """-log p per patch (B, H, W), each image of patches (B, H, W, D) under its own task's expert."""
        if self.flow.training:
            self.flow.eval()  # walks every module of every task: 0.8 ms for four
        if self.mixes(patches):
            places = self._places_of(tuple(self.flow.task_ids), patches.device)
            experts, positions = self.flow.experts(self.flow.task_ids), self._positions_of(patches)
            nll = self.flow.runner.batched_nll(experts, places[task_ids], patches, positions)
            return nll.nan_to_num_(torch.inf, torch.inf, -torch.inf)  # as `rank_non_finite_as_anomalous`, in one pass
        present = set(task_ids.tolist())
        if len(present) == 1:
            return self._maps_of_task(present.pop(), patches)
        maps = patches.new_empty(patches.shape[:-1])
        for task_id in present:
            chosen = task_ids == task_id
            maps[chosen] = self._maps_of_task(task_id, patches[chosen])
        return maps

    def _maps_of_task(self, task_id: int, patches: Tensor) -> Tensor:
        maps = self.flow.nll_as(task_id, self.add_positions(patches))
        return rank_non_finite_as_anomalous(maps)

    def maps_of_conditioned(self, task_id: int, x: Tensor) -> Tensor:
        """Maps (B, H, W) of a task for what stands before its flow, (B, H, W, D)."""
        return rank_non_finite_as_anomalous(self.flow.nll_as(task_id, x, conditioned=True))

    def mixes(self, x: Tensor) -> bool:
        """Whether images of different tasks go through the flow in one pass."""
        experts = self.flow.experts(self.flow.task_ids)
        return bool(experts) and self.flow.runner.why_not_batched(experts, x) is None

    def features_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, H, W, D) and their means (B, D)."""
        if isinstance(self.extractor, PatchExtractor):
            return self.extractor.features_with_image_level(images)
        patches = self.extractor(self._normalized(images)).float()
        return patches, patches.mean((1, 2))

    def _normalized(self, images: Tensor) -> Tensor:
        """What the extractor takes; bytes cross to the device as bytes."""
        if images.dtype != torch.uint8 or isinstance(self.extractor, PatchExtractor):  # which takes bytes
            return images
        return normalized(images.to(self.router.device))

    def _score_routed(self, images: Tensor) -> Scored:
        patches, features = self.features_of(images)
        distances, ids = self.router.distances_and_nearest(features)
        maps = self.anomaly_maps(patches, ids)
        return Scored(maps, image_scores(maps, self.config), ids, distances)

    def _state(self, images: Tensor) -> list[Any] | None:
        """What a captured run has in it, kept with the graphs, which hold no more than addresses; None without one.

        While anything trains weights are merged at every call, and a graph would be of old ones.
        """
        ids = tuple(self.flow.task_ids)
        if not ids:
            return None
        read = self.flow.runner.batched_experts_read(self.flow.experts(ids), images.new_empty(0, dtype=torch.float32))
        if read is None:
            return None
        backbone = self.extractor.reads() if isinstance(self.extractor, PatchExtractor) else [self.extractor]
        return [*read, *self.router.reads(), self._places_of(ids, self.router.device), *backbone]

    def _places_of(self, task_ids: tuple[int, ...], device: torch.device) -> Tensor:
        """Place of each task id in `task_ids`, an int32 tensor to look them up in."""
        known = self._places
        if known[0] != task_ids or known[1].device != device:
            places = [task_ids.index(t) if t in task_ids else 0 for t in range(max(task_ids) + 1)]
            known = self._places = (task_ids, torch.tensor(places, dtype=torch.int32, device=device))
        return known[1]

    def add_positions(self, patches: Tensor) -> Tensor:
        """patches (B, H, W, D) with positions, unless the ablation leaves them out."""
        positions = self._positions_of(patches)
        return patches if positions is None else patches + positions

    def _positions_of(self, patches: Tensor) -> Tensor | None:
        if not self.config.use_pos_embedding:
            return None
        return self.positions.beside((patches.shape[1], patches.shape[2]), patches)
