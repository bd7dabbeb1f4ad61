"""Where a map exceeds a threshold: connected regions with box, area and peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """An 8-connected region, in pixels of the original image; `right` and `bottom` lie just outside of it."""

    left: int
    top: int
    right: int
    bottom: int
    area: int
    """Pixels above the threshold."""
    peak: float
    """Largest value of the map in it."""


def find_regions(values: NDArray[np.floating], threshold: float) -> tuple[Region, ...]:
    """The 8-connected regions of `values` (H, W) above `threshold`, the highest peak first; NaN lies in none.

    Works on runs, the stretches of a row above the threshold: a map of a few defects has few, whatever its size.
    """
    rows, starts, ends = _runs(values > threshold)
    if len(rows) == 0:
        return ()
    region = _connected(len(rows), *_touching(rows, starts, ends))
    order = np.argsort(region, kind="stable")
    firsts = np.flatnonzero(np.diff(region[order], prepend=-1))  # where in that order a region begins
    peaks = _peaks(values, rows, starts, ends)
    found = zip(
        np.minimum.reduceat(starts[order], firsts).tolist(),
        np.minimum.reduceat(rows[order], firsts).tolist(),
        np.maximum.reduceat(ends[order], firsts).tolist(),
        np.maximum.reduceat(rows[order] + 1, firsts).tolist(),
        np.add.reduceat((ends - starts)[order], firsts).tolist(),
        np.maximum.reduceat(peaks[order], firsts).tolist(),
        strict=True,
    )
    return tuple(sorted((Region(*values) for values in found), key=lambda r: (-r.peak, r.top, r.left)))


def _peaks(
    values: NDArray[np.floating], rows: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp]
) -> NDArray[np.floating]:
    """The largest value in each run."""
    width = values.shape[1]
    bounds = np.stack([rows * width + starts, rows * width + ends], axis=1).ravel()
    return np.maximum.reduceat(np.append(values.ravel(), -np.inf), bounds)[::2]


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Row, start and end (exclusive) of every run of a mask, in reading order."""
    padded = np.pad(mask, ((0, 0), (1, 1)))
    changes = np.flatnonzero(padded[:, 1:] != padded[:, :-1])  # in every row, starts and ends take turns
    rows, starts = np.divmod(changes[::2], mask.shape[1] + 1)
    return rows, starts, changes[1::2] % (mask.shape[1] + 1)


def _touching(
    rows: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of runs in neighbouring rows that touch, diagonally too: those above, those below."""
    stride = int(ends.max()) + 2
    start_keys, end_keys = rows * stride + starts, rows * stride + ends
    # In the row above, runs from the first that ends at or after this start to the last that starts by this end.
    low = np.searchsorted(end_keys, start_keys - stride, side="left")
    high = np.searchsorted(start_keys, end_keys - stride, side="right")
    counts = np.maximum(high - low, 0)
    below = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(low, counts) + offsets, below


def _connected(count: int, above: NDArray[np.intp], below: NDArray[np.intp]) -> NDArray[np.intp]:
    """The smallest run connected with each of `count` runs: trees are hooked together and flattened in turns."""
    parent = np.arange(count)
    while True:
        a, b = parent[above], parent[below]
        if np.array_equal(a, b):
            return parent
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parent, shorter := parent[parent]):
            parent = shorter
