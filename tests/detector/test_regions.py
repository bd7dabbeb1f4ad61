"""Regions against scipy's labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from moleflow_fast.detector.regions import Region, find_regions


def expected(values: np.ndarray, threshold: float) -> set[Region]:
    above = values > threshold
    labels, count = ndimage.label(above, structure=np.ones((3, 3)))
    found = set()
    for i, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels == i
        box = columns.start, rows.start, columns.stop, rows.stop
        found.add(Region(*box, area=int(inside.sum()), peak=float(values[inside].max())))
    assert len(found) == count
    return found


@given(st.integers(1, 24), st.integers(1, 24), st.floats(0, 1), st.integers(0, 10**6))
def test_as_scipy(height: int, width: int, threshold: float, seed: int) -> None:
    values = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    regions = find_regions(values, threshold)
    assert set(regions) == expected(values, threshold) and len(set(regions)) == len(regions)
    assert [r.peak for r in regions] == sorted((r.peak for r in regions), reverse=True)


@pytest.mark.parametrize("sigma", [0, 1, 4])
def test_large_maps(sigma: float) -> None:
    noise = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    values = ndimage.gaussian_filter(noise, sigma) if sigma else noise
    threshold = float(np.quantile(values, 0.6))
    assert set(find_regions(values, threshold)) == expected(values, threshold)


def test_spirals_are_one_region() -> None:
    values = np.zeros((41, 41), np.float32)
    for i in range(0, 20, 2):
        values[i : 41 - i, [i, 40 - i]] = values[[i, 40 - i], i : 41 - i] = 1
        values[i + 1, i] = 0
        values[i + 2, i + 1] = 1
    assert set(find_regions(values, 0.5)) == expected(values, 0.5)


def test_nothing_everything_and_what_is_not_seen() -> None:
    values = np.ones((3, 5), np.float32)
    assert find_regions(values, 1.0) == ()
    assert find_regions(values, 0.5) == (Region(0, 0, 5, 3, area=15, peak=1.0),)
    values[:, 2] = np.nan
    assert [r.area for r in find_regions(values, 0.5)] == [6, 6]
