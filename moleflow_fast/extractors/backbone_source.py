"""Running the backbone over the images of a data set, which a decoder reads ahead."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from moleflow_fast.data.datasets import AnomalyImages
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.stitching import OfPictures
from moleflow_fast.errors import UserError
from moleflow_fast.system.phases import each, phase


class NonFiniteFeatures(UserError, ValueError):
    """The backbone gave NaN or infinity for an image."""


class Extractor(Protocol):
    """What is asked of an extractor."""

    def fingerprint(self) -> str: ...

    def features_with_image_level(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (B, C, M, M) as they come, or of RGB bytes (B, 3, M, M)."""


class ImageDataset(Protocol):
    """What is asked of a data set: item i is a tuple that starts with the image tensor (C, M, M).

    `AnomalyImages` with transforms of ours are read by the decoder, and come as bytes. Items of others are made in the
    run's own process.
    """

    @property
    def samples(self) -> Sequence[Any]:
        """Each with a `path`."""

    augmented: bool  # whether an item differs from one access to the next

    def transform_key(self) -> str:
        """A text that differs whenever the way from file to tensor differs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, ...]: ...


class BackboneSource:
    """A `FeatureStore` that keeps nothing: every access decodes images and runs the backbone.

    For data sets whose images change at every access, and for those whose features fit nowhere. Random
    augmentation follows from the batches of one call and the image alone: it does not depend on the number of
    processes, leaves the global random state untouched, and comes out the same in a resumed run.
    """

    origin = "backbone"
    nbytes = 0
    of_pictures: OfPictures | None = None

    def __init__(
        self,
        dataset: ImageDataset,
        extractor: Extractor,
        batch_size: int,
        decoder: Decoder | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dataset = dataset
        self.extractor = extractor
        self.batch_size = batch_size
        self.decoder = decoder or Decoder()
        self.device = torch.device(device)

    @property
    def grid(self) -> tuple[int, int]:
        return self._shape[0], self._shape[1]

    @property
    def dim(self) -> int:
        return self._shape[2]

    @cached_property
    def image_features(self) -> Tensor:
        """(N, D), from one pass in order at first use."""
        return torch.cat([image for _, image in self.batches(self.in_order())])

    def __len__(self) -> int:
        return len(self.dataset)

    def in_order(self) -> list[Tensor]:
        """Batches of indices that cover the data set once."""
        return list(torch.arange(len(self)).split(self.batch_size))

    def patches(self, indices: Tensor) -> Tensor:
        if len(indices) == 0:
            return torch.empty(0, *self.grid, self.dim, device=self.device)
        return torch.cat([patches for patches, _ in self.batches(indices.split(self.batch_size))])

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        batches = [batch.tolist() for batch in index_batches]
        for indices, images in zip(batches, each("decoding", self._images(batches)), strict=True):
            with phase("backbone"):
                patches, image_level = self.extractor.features_with_image_level(images)
                require_finite(patches, self.dataset, indices)
                there = patches.to(self.device, torch.float32), image_level.to(self.device, torch.float32)
            yield there

    def _images(self, batches: list[list[int]]) -> Iterator[Tensor]:
        """The images of each batch, in host memory: uint8 (n, 3, S, S), or (n, C, M, M) as the data set has them."""
        seed = zlib.crc32(repr(batches).encode()) * len(self)
        dataset = self.dataset
        if not isinstance(dataset, AnomalyImages) or dataset.frame is None:
            return (torch.stack([self._item(i, seed + i) for i in batch]) for batch in batches)
        pictures = ([dataset.picture(i, seed + i) for i in batch] for batch in batches)
        return (self._pinned(torch.from_numpy(pixels)) for pixels in self.decoder.pixels(pictures))

    def _item(self, index: int, seed: int) -> Tensor:
        if not self.dataset.augmented:
            return self.dataset[index][0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.dataset[index][0]

    def _pinned(self, images: Tensor) -> Tensor:
        return images.pin_memory() if self.device.type == "cuda" else images

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        patches, _ = next(self.batches([torch.tensor([0])]))
        return tuple(patches.shape[1:])


def require_finite(patches: Tensor, dataset: ImageDataset, indices: Sequence[int]) -> None:
    """Raise NonFiniteFeatures, naming the files, unless all patches (n, H, W, D) of the images are finite."""
    finite = patches.isfinite().flatten(1).all(1)  # (n,)
    if bool(finite.all()):
        return
    bad = [i for i, good in zip(indices, finite.tolist(), strict=True) if not good]
    raise NonFiniteFeatures(
        f"the backbone gives NaN or infinite features in {patches.dtype} for "
        f"{', '.join(str(dataset.samples[i].path) for i in bad)}: check these images and the backbone weights"
    )
