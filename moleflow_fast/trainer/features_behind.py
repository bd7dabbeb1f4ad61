"""Features behind a map that stays fixed while a task trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from moleflow_fast.extractors.stores import TensorStore
from moleflow_fast.trainer.feature_loader import FeatureSource, ImageBatchSource

Front = Callable[[Tensor], Tensor]
_BATCH = 32


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
        super().__init__(batches.loader, batches.extractor, batches.device)
        self.front = front

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.front(patches), features) for patches, features in super().__iter__())


def behind(source: FeatureSource, front: Front) -> FeatureSource:
    """The features of a source behind a front: computed now where it holds its own in memory, else in each batch."""
    if isinstance(source, TensorStore) and source.origin in ("device", "memory"):
        return _computed(source, front)
    return SourceBehind(source, front)


def _computed(source: TensorStore, front: Front) -> TensorStore:
    place = source.device if source.origin == "device" else torch.device("cpu")
    patches = torch.empty(len(source), *source.grid, source.dim, device=place)
    done = 0
    with torch.no_grad():
        for batch, _ in source.batches(list(torch.arange(len(source)).split(_BATCH))):
            patches[done : done + len(batch)] = front(batch)
            done += len(batch)
    return TensorStore(patches, source.image_features, source.device, source.origin)
