"""Features behind the loaders of the published implementation: made once where every epoch shows the same images."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.datasets import AnomalyImages
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.normalization import normalized
from moleflow_fast.extractors.base import PatchExtractor
from moleflow_fast.extractors.cache import FeatureCache
from moleflow_fast.extractors.stores import FeatureStore
from moleflow_fast.trainer.feature_loader import BatchesOfFeatures, ImageBatchSource


def batches_of(
    loader: Iterable, extractor: object, device: torch.device, args: Any, logger: logging.Logger
) -> ImageBatchSource:
    """The batches of a loader whose first item is images, as features, in the loader's own order.

    The backbone runs once per image where `why_not_known` says nothing, else in every epoch; the logger is told.

    Args:
        args: any object; `cache_dir`, `cache_limit_gb` and `device_cache_gb` are read where it has them.
    """
    reason = why_not_known(loader, extractor)
    if reason is not None:
        logger.warning(
            "the backbone runs over every image in every epoch, because %s; with one of this package's data sets in a "
            "DataLoader, and no augmentation, it would run once",
            reason,
        )
        return ImageBatchSource(loader, extractor, device)
    assert isinstance(loader, DataLoader)
    with closing(Decoder(loader.num_workers)) as decoder:
        store = features_of(loader.dataset, extractor, device, args, loader.batch_size or 16, decoder)  # type: ignore[arg-type]
    logger.info("features of %d images are known for all epochs", len(store))
    return BatchesOfFeatures(loader, store)


def features_of(
    dataset: AnomalyImages, extractor: Any, device: torch.device, args: Any, batch_size: int, decoder: Decoder
) -> FeatureStore:
    """Features of a data set, kept from run to run where they are those of a `PatchExtractor`.

    Args:
        args: see `batches_of`.
    """
    known = isinstance(extractor, PatchExtractor)
    one = extractor if known else _WithImageLevel(extractor)
    return feature_cache(args, device).features(dataset, one, batch_size, decoder, enabled=known)


class _WithImageLevel:
    """An extractor of somebody's own as the cache asks for one."""

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor

    def fingerprint(self) -> str:
        raise NotImplementedError("its features are never kept")

    def features_with_image_level(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches = self._extractor(normalized(images) if images.dtype == torch.uint8 else images)
        return patches, patches.mean((1, 2))


def feature_cache(args: Any, device: torch.device) -> FeatureCache:
    """As `args`, of a script or a run, have it, else with the defaults of a run."""
    directory = getattr(args, "cache_dir", None)
    largest = getattr(args, "cache_limit_gb", RunOptions.cache_limit_gb)
    on_device = getattr(args, "device_cache_gb", RunOptions.device_cache_gb)
    return FeatureCache(Path(directory) if directory else None, int(largest * 2**30), device, int(on_device * 2**30))


def why_not_known(loader: Iterable, extractor: object) -> str | None:
    """Why features of a loader's images cannot be made once for all epochs, or None."""
    if not isinstance(extractor, PatchExtractor):
        return f"the extractor is a {type(extractor).__name__}, whose features may differ from call to call"
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return f"a {type(loader).__name__} does not say which images make a batch"
    if not isinstance(loader.dataset, AnomalyImages):
        return f"images of a {type(loader.dataset).__name__} may be others at every access"
    return "its images are augmented" if loader.dataset.augmented else None
