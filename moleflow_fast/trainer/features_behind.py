"""Features of a task behind its Gaussian front, which stays fixed while the task trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeGuard

import torch
from torch import Tensor

from moleflow_fast.data.stitching import picture_count
from moleflow_fast.extractors.stores import JoinedStore, TensorStore
from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.trainer.cross_fitting import cross_fitted
from moleflow_fast.trainer.feature_loader import FeatureSource, ImageBatchSource

Front = Callable[[Tensor], Tensor]


class SourceBehind:
    """A source whose patches go through a front each time they are asked for."""

    def __init__(self, source: FeatureSource, front: Front) -> None:
        self.source = source
        self.front = front

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, index_batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.front(patches), features) for patches, features in self.source.batches(index_batches))


class BatchesBehind(ImageBatchSource):
    """The same for the loaders of the published implementation."""

    def __init__(self, batches: ImageBatchSource, front: Front) -> None:
        self.batches = batches
        self.front = front

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.front(patches), features) for patches, features in self.batches)


def in_memory(source: FeatureSource) -> TypeGuard[TensorStore | JoinedStore]:
    return isinstance(source, TensorStore | JoinedStore) and source.origin in ("device", "memory")


def behind(source: FeatureSource, front: GaussianFront, prepare: Front) -> FeatureSource:
    """The features of a source behind a front.

    Where the source holds its own in memory they are computed now, each image behind a front that was estimated without
    it: as new images will be, whose patches lie up to half as far out again as those that a front has seen. Else each
    batch goes through the front itself.
    """
    if in_memory(source) and picture_count(source) > 1:
        return _computed(source, front, prepare)
    return SourceBehind(source, lambda x: front(prepare(x)))


def _computed(source: TensorStore | JoinedStore, front: GaussianFront, prepare: Front) -> TensorStore:
    place = source.device if source.origin == "device" else torch.device("cpu")
    patches = torch.empty(len(source), *source.grid, source.dim, device=place)
    with torch.no_grad():
        for indices, white in cross_fitted(front, source, prepare):
            patches[indices.to(place)] = white.to(place)
    return TensorStore(patches, source.image_features, source.device, source.origin)
