"""The batches of a task, epoch after epoch, from either kind of loader."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from moleflow_fast.data.stitching import of_pictures
from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.trainer.feature_loader import FeatureLoader, ImageBatchSource
from moleflow_fast.trainer.features_behind import BatchesBehind, Front, behind, in_memory


class Epochs:
    """One face for both kinds of loaders."""

    def __init__(self, loader: FeatureLoader | ImageBatchSource) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(self.loader, FeatureLoader):
            return self.loader.epoch(number)
        return iter(self.loader)

    def image_features(self) -> Tensor:
        """Image-level features of every picture, (n, D)."""
        features = torch.cat([features for _, features in self._every_image()])
        pictures = of_pictures(self.loader.source) if isinstance(self.loader, FeatureLoader) else None
        return features if pictures is None else pictures.means(features)

    def patches(self) -> Iterator[Tensor]:
        """Patches of every image, batches (B, H, W, D)."""
        return (patches for patches, _ in self._every_image())

    def behind(self, front: GaussianFront, prepare: Front) -> Epochs:
        """The same batches with their patches behind a front, see `features_behind`."""
        if isinstance(self.loader, FeatureLoader):
            return Epochs(self.loader.over(behind(self.loader.source, front, prepare)))
        return Epochs(BatchesBehind(self.loader, lambda x: front(prepare(x))))

    @property
    def in_memory(self) -> bool:
        return isinstance(self.loader, FeatureLoader) and in_memory(self.loader.source)

    def _every_image(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader.in_order() if isinstance(self.loader, FeatureLoader) else iter(self.loader)
