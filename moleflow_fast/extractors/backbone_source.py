"""Running the backbone over the images of a data set, decoded ahead by worker processes."""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from multiprocessing.context import ForkServerContext
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from moleflow_fast.data.seeded import ImageDataset, SeededImages, leave_interrupts_to_the_run
from moleflow_fast.errors import UserError


class NonFiniteFeatures(UserError, ValueError):
    """The backbone gave NaN or infinity for an image."""


class Extractor(Protocol):
    """What is asked of an extractor."""

    def fingerprint(self) -> str: ...

    def features_with_image_level(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


class BackboneSource:
    """A `FeatureStore` that keeps nothing: every access decodes images and runs the backbone.

    For data sets whose images change at every access, and for those whose features fit nowhere. Random
    augmentation follows from the batches of one call and the image alone: it does not depend on the number of
    workers, leaves the global random state untouched, and comes out the same in a resumed run.
    """

    origin = "backbone"
    nbytes = 0

    def __init__(
        self,
        dataset: ImageDataset,
        extractor: Extractor,
        batch_size: int,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dataset = dataset
        self.extractor = extractor
        self.batch_size = batch_size
        self.num_workers = num_workers
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
        seed = zlib.crc32(repr(batches).encode())
        loader = DataLoader(
            SeededImages(self.dataset, seed),
            batch_sampler=batches,
            num_workers=self.num_workers,
            worker_init_fn=leave_interrupts_to_the_run,
            multiprocessing_context=_small_processes() if self.num_workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(seed),  # else the loader draws from the global state
        )
        for indices, images in zip(batches, loader, strict=True):
            patches, image_level = self.extractor.features_with_image_level(images)
            require_finite(patches, self.dataset, indices)
            yield patches.to(self.device, torch.float32), image_level.to(self.device, torch.float32)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        patches, _ = next(self.batches([torch.tensor([0])]))
        return tuple(patches.shape[1:])


@cache
def _small_processes() -> ForkServerContext:
    """Processes forked from a server that has loaded the data package and nothing else.

    While a fork of the training process lives, every page that training writes is copied first: 500,000 page
    faults and 7.3 s in a one-batch epoch at 2.8 GB resident, against 2.7 s this way (AMD EPYC, two cores).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "moleflow_fast.data"])
    return context


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
