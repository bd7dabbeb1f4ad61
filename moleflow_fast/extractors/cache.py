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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.data.decoder import Decoder
from moleflow_fast.system.home import cache_folder
from moleflow_fast.system.memory import free_memory

from . import cache_files
from .backbone_source import BackboneSource, Extractor, ImageDataset, require_finite
from .cache_files import DamagedEntry, EntryWriter, StorageFailed
from .stores import FeatureStore, TensorStore
from .write_behind import WriteBehind

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Batches = Iterator[tuple[Tensor, Tensor]]  # patches (n, H, W, D), image features (n, D)


def default_directory() -> Path:
    """`$MOLEFLOW_CACHE`, or `~/.cache/moleflow_fast/features`."""
    return cache_folder() if os.environ.get("MOLEFLOW_CACHE") else cache_folder() / "features"


class FeatureCache:
    """Features of data sets, computed once and reused within and between runs.

    An entry belongs to the files of the data set (path, size, times of change), the transform, the extractor's
    fingerprint and the dtype. What was computed is held on the device while the budget lasts, else in memory until a
    thread has written it to `directory`; from then on it is read from the file through a memory map. The batch size is
    no part of the key although it may change the last bits of what a backbone computes: features are bit-identical to
    an uncached pass in order with the batch size that the entry was written with.

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
        self._behind: list[WriteBehind] = []

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
            self._say_not_kept(error)
        return self._without_file(source, self._computed(source, progress))

    def settle(self) -> None:
        """Wait until all that is being written is written, or given up with a warning."""
        behind, self._behind = self._behind, []
        for writing in behind:
            writing.join()

    def _say_not_kept(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        logger.warning("features cannot be kept in %s (%s): they stay in memory for this run", self.directory, reason)

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
        with ExitStack() as held:
            held.enter_context(cache_files.lock(self.directory, key))
            entry = self._open(key)
            if entry is not None:
                return self._store_of_entry(key, *entry)
            batches = self._computed(source, progress)
            first = next(batches)
            batches = itertools.chain([first], batches)
            if not self._make_room(len(source), first):
                return self._without_file(source, batches)
            store = self._store_for(len(source), first)
            if store is None:
                return self._in_file(key, (len(source), *first[0].shape[1:]), batches)
            writer = EntryWriter(self.directory, key, (len(store), *store.grid, store.dim), self.dtype)
            behind = WriteBehind(writer, held.pop_all(), self._once_written(key, store))
        self._behind = [*(some for some in self._behind if not some.ended), behind]
        return _filled(store, batches, behind)

    def _in_file(self, key: str, shape: tuple[int, ...], batches: Batches) -> FeatureStore:
        """Features too large for memory: written at once, and read from there."""
        self._write(key, shape, batches)
        entry = cache_files.open_entry(self.directory, key, trusted=True)
        if entry is None:
            raise StorageFailed("the file just written has disappeared")
        cache_files.make_room(self.directory, 0, self.max_bytes)  # another process may have written too
        return self._store_of_entry(key, *entry)

    def _once_written(self, key: str, store: TensorStore) -> Callable[[Exception | None], None]:
        """What is done with a store once its entry is there: what it holds in memory gives way to the file."""
        reference = weakref.ref(store)

        def written(failure: Exception | None) -> None:
            if failure is not None:
                self._say_not_kept(failure)
                return
            store = reference()
            if store is not None and store.origin == "memory":
                self._let_go_of_memory(key, store)
            cache_files.make_room(self.directory, 0, self.max_bytes)  # another process may have written too

        return written

    def _let_go_of_memory(self, key: str, store: TensorStore) -> None:
        entry = cache_files.open_entry(self.directory, key, trusted=True)
        if entry is not None:
            self._protect(key, store)
            store.move_to(entry[0], "file")

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
            return self._held(patches.to(self.device), image_features, "device")
        store = TensorStore(patches, image_features, self.device, "file")
        self._protect(key, store)
        return store

    def _protect(self, key: str, store: TensorStore) -> None:
        """From eviction by this process, as long as the store lives."""
        cache_files.keep_open(key)
        weakref.finalize(store, cache_files.let_go, key)

    def _store_for(self, count: int, first: tuple[Tensor, Tensor]) -> TensorStore | None:
        """Room for the features of so many images, on the device or in memory; None where neither has it."""
        shape = (count, *first[0].shape[1:])
        size = count * first[0][0].nbytes
        on_device = self._reserve(size)
        if not on_device and size > free_memory() // 2:
            return None
        place = self.device if on_device else torch.device("cpu")
        patches = torch.empty(shape, dtype=self.dtype, device=place)
        image_features = torch.empty(shape[0], shape[3], device=self.device)
        return self._held(patches, image_features, "device" if on_device else "memory")

    def _without_file(self, source: BackboneSource, batches: Batches) -> FeatureStore:
        first = next(batches)
        store = self._store_for(len(source), first)
        if store is None:
            size = _readable(len(source) * first[0][0].nbytes)
            logger.warning("%s of features fit nowhere: the backbone runs at every access", size)
            return source
        return _filled(store, itertools.chain([first], batches))

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


def _filled(store: TensorStore, batches: Batches, behind: WriteBehind | None = None) -> TensorStore:
    """The store, once all batches are in it; they go to a file too where there is one."""
    start = 0
    try:
        for patches, image_features in batches:
            rows = store.put(start, patches, image_features)
            start += len(patches)
            if behind is not None:
                behind.append(rows.cpu(), image_features.cpu())
    except BaseException:
        if behind is not None:
            behind.abandon()
        raise
    if behind is not None:
        behind.finish()
    return store


def _images_key(dataset: ImageDataset) -> str:
    """The first half of a key: files and transform."""
    return _digest([[_file_state(sample.path) for sample in dataset.samples], dataset.transform_key()])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _file_state(path: str | Path) -> list[str | int]:
    status = os.stat(path)
    # Programs that write a file may put its time of change back, but not that of its inode.
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _total_bytes(count: int, first: tuple[Tensor, Tensor]) -> int:
    patches, image_features = first
    return count * (patches[0].nbytes + image_features[0].numel() * 4)


def _readable(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
