"""Shuffled batches of features for a task, the same on every machine for the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader


class FeatureSource(Protocol):
    """Features of a data set, cached or made by the backbone on the way."""

    def __len__(self) -> int: ...

    def batches(self, index_batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch of indices: patches (n, H, W, D) and image-level features (n, D)."""
        ...


class FeatureLoader:
    """Iterates over (patches, image features) of a source, in a new order every epoch.

    The order of epoch e depends on (seed, e) alone, so a resumed run sees what an uninterrupted one would have
    seen. The last partial batch is dropped, unless it is the only one.
    """

    def __init__(self, source: FeatureSource, batch_size: int, seed: int) -> None:
        if len(source) == 0:
            raise ValueError("a task needs at least one training image")
        self.source = source
        self.batch_size = batch_size
        self.seed = seed

    @property
    def smaller_than_a_batch(self) -> bool:
        return len(self.source) < self.batch_size

    def __len__(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self.source) // self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self.source.batches(self._order(number))

    def over(self, source: FeatureSource) -> FeatureLoader:
        """The same order of another source's images."""
        return FeatureLoader(source, self.batch_size, self.seed)

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, the partial batch included."""
        return self.source.batches(list(torch.arange(len(self.source)).split(self.batch_size)))

    def _order(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.source), generator=generator)
        return list(order.split(self.batch_size))[: len(self)]


class ImageBatchSource:
    """A source over a plain iterable of batches whose first item is images (B, 3, S, S): the published loaders.

    Its order is its own, so it serves `train_task` of code written for the published trainer.
    """

    def __init__(self, loader: Iterable, extractor: object, device: torch.device) -> None:
        self.loader = loader
        self.extractor = extractor
        self.device = device

    def __len__(self) -> int:
        """Batches in an epoch, 0 where the loader cannot say."""
        return len(self.loader) if isinstance(self.loader, Sized) else 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            patches = self.extractor(batch[0].to(self.device, non_blocking=True))  # type: ignore[operator]
            yield patches, patches.mean((1, 2))


class BatchesOfFeatures(ImageBatchSource):
    """The batches of a torch loader, in the loader's own order, from features that are known.

    The state of torch's generator goes on as it does with the loader itself.

    Args:
        loader: whose batch sampler says which images come together.
        source: their features.
    """

    loader: DataLoader

    def __init__(self, loader: DataLoader, source: FeatureSource) -> None:
        self.loader = loader
        self.source = source

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A loader draws a seed for its workers before its sampler draws the order.
        torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)
        return self.source.batches([torch.tensor(batch) for batch in self.loader.batch_sampler or ()])
