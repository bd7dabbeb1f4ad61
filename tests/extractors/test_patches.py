"""Pooling of neighbourhoods against recorded outputs and against the definition."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_fast.extractors.patches import patch_grid, pool_patches, pool_patches_reference

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("patch_*.npz"))


@pytest.mark.parametrize("pool", [pool_patches, pool_patches_reference])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden(path, pool):
    data = np.load(path)
    meta = json.loads(str(data["meta"]))
    maps = [torch.from_numpy(data[k]).float() for k in sorted(data) if k.startswith("map")]
    features = pool(maps, meta["embed_dim"], tuple(meta["grid"]), meta["patch_size"], meta["patch_stride"])
    expected = torch.from_numpy(data["features"])
    assert features.shape == expected.shape
    scale = expected.abs().max()
    assert (features - expected).abs().max() <= 1e-5 * scale
    assert (features.mean((1, 2)) - torch.from_numpy(data["image_features"])).abs().max() <= 1e-5 * scale


def test_golden_files_are_there():
    assert len(GOLDEN) == 4


sizes = st.tuples(st.integers(1, 40), st.integers(3, 9), st.integers(3, 9))


@settings(max_examples=60, deadline=None)
@given(
    layers=st.lists(sizes, min_size=1, max_size=3),
    embed_dim=st.integers(1, 60),
    patch_size=st.sampled_from([1, 2, 3, 5]),
    patch_stride=st.sampled_from([1, 2]),
)
def test_convolution_equals_definition(layers, embed_dim, patch_size, patch_stride):
    generator = torch.Generator().manual_seed(len(layers) + embed_dim)
    maps = [torch.randn(2, *size, generator=generator, dtype=torch.float64) for size in layers]
    grid = patch_grid(maps[0], patch_size, patch_stride)
    fast = pool_patches(maps, embed_dim, grid, patch_size, patch_stride)
    slow = pool_patches_reference(maps, embed_dim, grid, patch_size, patch_stride)
    assert fast.shape == (2, *grid, embed_dim)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


def test_memory_format_does_not_matter():
    m = torch.randn(2, 12, 6, 6)
    expected = pool_patches([m], 8, (6, 6))
    torch.testing.assert_close(
        pool_patches([m.contiguous(memory_format=torch.channels_last)], 8, (6, 6)), expected
    )
    assert expected.is_contiguous()


def test_no_maps():
    with pytest.raises(ValueError, match="at least one"):
        pool_patches([], 8, (4, 4))
