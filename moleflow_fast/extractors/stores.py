"""Features of a whole data set, ready to be gathered in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from moleflow_fast.data.stitching import OfPictures

_PREFETCHED_BATCHES = 2


class FeatureStore(Protocol):
    """Patch and image features of N images; everything it returns is float32 on `device`.

    Attributes:
        of_pictures: where the images are squares of pictures, of which.
    """

    of_pictures: OfPictures | None

    @property
    def origin(self) -> str:
        """Where patches come from: "device", "memory" (of the host), "file" or "backbone"."""

    @property
    def device(self) -> torch.device: ...

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W)."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def nbytes(self) -> int:
        """Bytes that the patch features take where they are kept."""

    @property
    def image_features(self) -> Tensor:
        """(N, D): the mean of each image's patch features."""

    def __len__(self) -> int: ...

    def patches(self, indices: Tensor) -> Tensor:
        """Patch features (n, H, W, D) of the images `indices` (n,)."""

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(patches (n, H, W, D), image features (n, D)) per batch of indices; slow sources read ahead."""


class TensorStore:
    """Features held in one tensor: on the device, in host memory, or mapped from a file.

    Args:
        patches: (N, H, W, D) in any floating dtype.
        image_features: (N, D).
        device: where results go.
        origin: "device", "memory" or "file".
    """

    def __init__(self, patches: Tensor, image_features: Tensor, device: torch.device, origin: str) -> None:
        self._patches = patches
        self.image_features = image_features.to(device, torch.float32)
        self.device = device
        self.origin = origin
        self.of_pictures: OfPictures | None = None

    def put(self, start: int, patches: Tensor, image_features: Tensor) -> Tensor:
        """Fill images from `start` on, before anybody reads them; returns their patches where they are kept."""
        rows = slice(start, start + len(patches))
        self._patches[rows], self.image_features[rows] = patches, image_features
        return self._patches[rows]

    def move_to(self, patches: Tensor, origin: str) -> None:
        """Go on with equal patches in another place; any thread may read meanwhile."""
        self._patches, self.origin = patches, origin

    @property
    def grid(self) -> tuple[int, int]:
        return self._patches.shape[1], self._patches.shape[2]

    @property
    def dim(self) -> int:
        return self._patches.shape[3]

    @property
    def nbytes(self) -> int:
        return self._patches.nbytes

    def __len__(self) -> int:
        return len(self._patches)

    def patches(self, indices: Tensor) -> Tensor:
        return self._arriving(self._gather(indices))

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        if self.origin == "device":
            on_device = self._move(list(index_batches))
            return ((self.patches(indices), self._image_rows(indices)) for indices in on_device)
        return self._batches_read_ahead(index_batches)

    def _move(self, index_batches: list[Tensor]) -> Iterable[Tensor]:
        """All indices in one copy, made once for an epoch."""
        if not index_batches:
            return ()
        return _sent(torch.cat(index_batches), self.device).split([len(batch) for batch in index_batches])

    def _batches_read_ahead(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1) as reader:
            pending: deque[tuple[Tensor, Future[Tensor]]] = deque()
            for indices in index_batches:
                pending.append((indices, reader.submit(self._gather, indices)))
                if len(pending) > _PREFETCHED_BATCHES:
                    yield self._finish(*pending.popleft())
            while pending:
                yield self._finish(*pending.popleft())

    def _finish(self, indices: Tensor, rows: Future[Tensor]) -> tuple[Tensor, Tensor]:
        return self._arriving(rows.result()), self._image_rows(indices)

    def _image_rows(self, indices: Tensor) -> Tensor:
        return self.image_features.index_select(0, _sent(indices, self.device))

    def _gather(self, indices: Tensor) -> Tensor:
        patches = self._patches  # which may move
        return _pinned(patches.index_select(0, _sent(indices, patches.device)), self.device)

    def _arriving(self, rows: Tensor) -> Tensor:
        return rows.to(self.device, non_blocking=True).float()


class JoinedStore:
    """Stores of one grid and width as one, images in their order."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self._stores = stores
        self._starts = list(accumulate(map(len, stores), initial=0))
        self.device = stores[0].device
        self.grid = stores[0].grid
        self.dim = stores[0].dim
        self.of_pictures: OfPictures | None = None

    @property
    def origin(self) -> str:
        origins = {store.origin for store in self._stores}
        return next(origin for origin in ("backbone", "file", "memory", "device") if origin in origins)

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in self._stores)

    @cached_property
    def image_features(self) -> Tensor:
        return torch.cat([store.image_features for store in self._stores])

    def __len__(self) -> int:
        return self._starts[-1]

    def patches(self, indices: Tensor) -> Tensor:
        found = torch.empty(len(indices), *self.grid, self.dim, device=self.device)
        for store, start in zip(self._stores, self._starts, strict=False):
            here = ((indices >= start) & (indices < start + len(store))).nonzero().flatten()
            found[_sent(here, self.device)] = store.patches(indices[here] - start)
        return found

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in index_batches:
            yield self.patches(indices), self.image_features[_sent(indices, self.device)]


def _sent(indices: Tensor, device: torch.device) -> Tensor:
    """Indices on their way: from memory that is not pinned the copy would make the host wait for all that runs."""
    return _pinned(indices, device).to(device, non_blocking=True)


def _pinned(tensor: Tensor, destination: torch.device) -> Tensor:
    crosses = tensor.device.type == "cpu" and destination.type == "cuda"
    return tensor.pin_memory() if crosses else tensor
