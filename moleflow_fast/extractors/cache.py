"""The frozen backbone runs once per image: its features are kept on the device, in memory or in a file."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.data.decoder import Decoder
from moleflow_fast.memory import free_memory

from . import cache_files
from .backbone_source import BackboneSource, Extractor, ImageDataset, require_finite
from .cache_files import DamagedEntry, EntryWriter, StorageFailed
from .stores import FeatureStore, TensorStore

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Batches = Iterator[tuple[Tensor, Tensor]]  # patches (n, H, W, D), image features (n, D)


def default_directory() -> Path:
    """`$MOLEFLOW_CACHE`, or `~/.cache/moleflow_fast/features`."""
    named = os.environ.get("MOLEFLOW_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "moleflow_fast" / "features"


class FeatureCache:
    """Features of data sets, computed once and reused within and between runs.

    An entry belongs to the files of the data set (path, size, time of change), the transform, the extractor's
    fingerprint and the dtype. It is written to `directory`, then held on the device while the budget lasts,
    else read from the file through a memory map. The batch size is no part of the key although it may change
    the last bits of what a backbone computes: features are bit-identical to an uncached pass in order with
    the batch size that the entry was written with.

    Args:
        directory: where files go; None for `default_directory()`.
        max_bytes: limit of the directory; least recently used entries go first.
        device: where the stores return features.
        device_budget_bytes: what all living stores together may hold on the device.
        dtype: of the kept patch features; results are float32 in any case.
    """

    def __init__(
        self,
        directory: Path | None,
        max_bytes: int,
        device: torch.device | str,
        device_budget_bytes: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.directory = Path(directory) if directory is not None else default_directory()
        self.max_bytes = max_bytes
        self.device = torch.device(device)
        self.dtype = dtype
        self._device_bytes_left = device_budget_bytes

    def features(
        self,
        dataset: ImageDataset,
        extractor: Extractor,
        batch_size: int,
        decoder: Decoder | None = None,
        progress: Progress | None = None,
        enabled: bool = True,
    ) -> FeatureStore:
        """Features of every image of a data set, computed where they are not known yet.

        Args:
            dataset: see `ImageDataset`; one with `augmented` is never cached.
            extractor: a `PatchExtractor`.
            batch_size: images per backbone pass.
            decoder: reads the images; None for one in this process.
            progress: called with (images done, images in all) while the backbone runs.
            enabled: False to run the backbone at every access instead.

        Raises:
            ValueError: the data set is empty.
            NonFiniteFeatures: the backbone gives NaN or infinity; names the image.
        """
        if len(dataset) == 0:
            raise ValueError("no images to extract features from")
        source = BackboneSource(dataset, extractor, batch_size, decoder, self.device)
        if dataset.augmented or not enabled:
            return source
        key = self._key(dataset, extractor)
        try:
            return self._through_file(key, source, progress)
        except StorageFailed as error:
            logger.warning(
                "features cannot be kept in %s (%s): they stay in memory for this run",
                self.directory,
                error.strerror or error,
            )
        return self._without_file(source, self._computed(source, progress))

    def may_know(self, dataset: ImageDataset) -> bool:
        """Whether there are features of these images, if perhaps of another extractor."""
        try:
            return any(self.directory.glob(f"{_images_key(dataset)}*.json"))
        except OSError:  # a file is not there; whoever reads it says so
            return False

    def _key(self, dataset: ImageDataset, extractor: Extractor) -> str:
        parts = [cache_files.FORMAT_VERSION, extractor.fingerprint(), str(self.dtype)]
        if self.device.type == "cuda" and torch.backends.cudnn.allow_tf32:
            parts.append("tf32")  # a run in fp32 must not read what another rounded
        return _images_key(dataset) + _digest(parts)

    def _through_file(self, key: str, source: BackboneSource, progress: Progress | None) -> FeatureStore:
        with cache_files.storage_errors():
            self.directory.mkdir(parents=True, exist_ok=True)
        cache_files.clean_leftovers(self.directory)
        with cache_files.lock(self.directory, key):
            entry = self._open(key)
            if entry is not None:
                return self._store_of_entry(key, *entry)
            batches = self._computed(source, progress)
            first = next(batches)
            batches = itertools.chain([first], batches)
            if not self._make_room(len(source), first):
                return self._without_file(source, batches)
            self._write(key, (len(source), *first[0].shape[1:]), batches)
            entry = self._open(key)
            if entry is None:
                raise StorageFailed("the file just written has disappeared")
            cache_files.make_room(self.directory, 0, self.max_bytes)  # another process may have written too
            return self._store_of_entry(key, *entry)

    def _open(self, key: str) -> tuple[Tensor, Tensor] | None:
        try:
            return cache_files.open_entry(self.directory, key)
        except DamagedEntry as error:
            logger.warning("cached features %s are damaged (%s): computed again", key, error)
            return None

    def _computed(self, source: BackboneSource, progress: Progress | None) -> Batches:
        done = 0
        for patches, image_features in source.batches(source.in_order()):
            kept = patches.to(self.dtype)
            if self.dtype != torch.float32:  # a narrower range may overflow
                require_finite(kept, source.dataset, range(done, done + len(kept)))
            yield kept, image_features
            done += len(patches)
            if progress is not None:
                progress(done, len(source))

    def _write(self, key: str, shape: tuple[int, ...], batches: Batches) -> None:
        writer = EntryWriter(self.directory, key, shape, self.dtype)
        try:
            for patches, image_features in batches:
                writer.append(patches, image_features)
            writer.finish()
        finally:
            writer.discard()

    def _make_room(self, count: int, first: tuple[Tensor, Tensor]) -> bool:
        size = _total_bytes(count, first)
        with cache_files.storage_errors():
            fits = cache_files.make_room(self.directory, size, self.max_bytes)
            if fits and shutil.disk_usage(self.directory).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if fits:
            return True
        logger.warning(
            "features of %d images take %s, more than the cache in %s may hold (%s): not written",
            count,
            _readable(size),
            self.directory,
            _readable(self.max_bytes),
        )
        return False

    def _store_of_entry(self, key: str, patches: Tensor, image_features: Tensor) -> TensorStore:
        if self._reserve(patches.nbytes):
            return self._held(patches.to(self.device, copy=True), image_features, "device")
        store = TensorStore(patches, image_features, self.device, "file")
        cache_files.keep_open(key)
        weakref.finalize(store, cache_files.let_go, key)
        return store

    def _without_file(self, source: BackboneSource, batches: Batches) -> FeatureStore:
        first = next(batches)
        shape = (len(source), *first[0].shape[1:])
        size = len(source) * first[0][0].nbytes
        on_device = self._reserve(size)
        if not on_device and size > free_memory() // 2:
            logger.warning("%s of features fit nowhere: the backbone runs at every access", _readable(size))
            return source
        place = self.device if on_device else torch.device("cpu")
        patches = torch.empty(shape, dtype=self.dtype, device=place)
        image_features = torch.empty(shape[0], shape[3], device=self.device)
        store = self._held(patches, image_features, "device" if on_device else "memory")
        start = 0
        for some_patches, some_image_features in itertools.chain([first], batches):
            rows = slice(start, start + len(some_patches))
            patches[rows], image_features[rows] = some_patches, some_image_features
            start = rows.stop
        return store

    def _reserve(self, size: int) -> bool:
        if size > self._device_bytes_left:
            return False
        self._device_bytes_left -= size
        return True

    def _held(self, patches: Tensor, image_features: Tensor, origin: str) -> TensorStore:
        store = TensorStore(patches, image_features, self.device, origin)
        if origin == "device":
            weakref.finalize(store, self._give_back, patches.nbytes)
        return store

    def _give_back(self, size: int) -> None:
        self._device_bytes_left += size


def _images_key(dataset: ImageDataset) -> str:
    """The first half of a key: files and transform."""
    return _digest([[_file_state(sample.path) for sample in dataset.samples], dataset.transform_key()])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _file_state(path: str | Path) -> list[str | int]:
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def _total_bytes(count: int, first: tuple[Tensor, Tensor]) -> int:
    patches, image_features = first
    return count * (patches[0].nbytes + image_features[0].numel() * 4)


def _readable(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
