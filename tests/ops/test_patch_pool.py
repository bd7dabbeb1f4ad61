"""Pooling of neighbourhoods against recorded outputs and against the definition."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_fast.backend import BackendError, use_backend
from moleflow_fast.ops.patch_pool import patch_grid, patch_pool, patch_pool_reference

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("patch_*.npz"))
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
FORMATS = {
    "contiguous": lambda m: m.contiguous(),
    "channels_last": lambda m: m.contiguous(memory_format=torch.channels_last),
    "view": lambda m: torch.stack([m, m], -1)[..., 0],
}


def convolution(*args):
    with use_backend("eager"):
        return patch_pool(*args)


def compiled(*args):
    with use_backend("cpp"):
        return patch_pool(*args)


def feature_maps(layers, batch=2, dtype=torch.float64, layout="contiguous"):
    generator = torch.Generator().manual_seed(sum(map(sum, layers)))
    maps = [torch.randn(batch, *size, generator=generator, dtype=torch.float64) for size in layers]
    return [FORMATS[layout](m.to(dtype)) for m in maps]


@pytest.mark.parametrize("pool", [compiled, convolution, patch_pool_reference])
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


layer_lists = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    layers=layer_lists,
    embed_dim=st.integers(1, 60),
    patch_size=st.sampled_from([1, 2, 3, 5]),
    patch_stride=st.sampled_from([1, 2]),
)
def test_convolution_equals_definition(layers, embed_dim, patch_size, patch_stride):
    maps = feature_maps([(c, h + 2, w + 2) for c, h, w in layers])
    grid = patch_grid(maps[0], patch_size, patch_stride)
    fast = convolution(maps, embed_dim, grid, patch_size, patch_stride)
    slow = patch_pool_reference(maps, embed_dim, grid, patch_size, patch_stride)
    assert fast.shape == (2, *grid, embed_dim)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    layers=layer_lists,
    embed_dim=st.integers(1, 80),
    batch=st.integers(1, 3),
    grid=st.none() | st.tuples(st.integers(1, 12), st.integers(1, 12)),
    layout=st.sampled_from(list(FORMATS)),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_compiled_equals_definition(layers, embed_dim, batch, grid, layout, dtype):
    exact = feature_maps(layers, batch)
    grid = grid or layers[0][1:]
    expected = patch_pool_reference(exact, embed_dim, grid)
    maps = [FORMATS[layout](m.to(dtype)) for m in exact]
    features = compiled(maps, embed_dim, grid)
    assert features.is_contiguous() and features.dtype == dtype
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("layout", FORMATS)
def test_widths_of_backbones(layout):
    maps = feature_maps([(512, 6, 6), (1024, 3, 3)], batch=1, layout=layout)
    torch.testing.assert_close(
        compiled(maps, 768, (6, 6)), patch_pool_reference(maps, 768, (6, 6)), rtol=1e-12, atol=1e-13
    )


def test_long_windows_keep_their_precision():
    maps = [1000 + m for m in feature_maps([(600, 5, 5)], dtype=torch.float32)]
    expected = patch_pool_reference([m.double() for m in maps], 4, (5, 5))
    torch.testing.assert_close(compiled(maps, 4, (5, 5)).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", FORMATS)
def test_threads_do_not_matter(layout):
    maps = feature_maps([(37, 9, 7), (20, 4, 4)], 3, torch.float32, layout)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(compiled(maps, 70, (9, 7)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_a_broken_value_stays_in_its_neighbourhood_and_channels():
    maps = feature_maps([(16, 7, 7)])
    maps[0][0, 5, 3, 3] = torch.nan
    maps[0][1, 0, 0, 0] = torch.inf
    features, expected = compiled(maps, 32, (7, 7)), patch_pool_reference(maps, 32, (7, 7))
    torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert features[0].isnan().any((0, 1)).sum() < 5  # outputs that read channel 5 only
    assert features[1, 3:, 3:].isfinite().all()


def test_no_image():
    assert compiled([torch.empty(0, 4, 3, 3)], 8, (3, 3)).shape == (0, 3, 3, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_fp32(dtype):
    maps = feature_maps([(12, 5, 5)], dtype=dtype)
    for pool in (patch_pool, compiled):
        assert torch.equal(pool(maps, 8, (5, 5)), pool([m.float() for m in maps], 8, (5, 5)))


def test_maps_that_want_a_gradient_get_one():
    (m,) = feature_maps([(6, 4, 4)])
    m.requires_grad_()
    patch_pool([m], 8, (4, 4)).sum().backward()
    assert m.grad.abs().sum() > 0


def test_other_patches_are_not_compiled():
    maps = feature_maps([(6, 4, 4)])
    assert patch_pool(maps, 8, patch_grid(maps[0], 5, 1), 5).shape == (2, 4, 4, 8)
    with pytest.raises(BackendError, match="patches of 5 with stride 1"):
        compiled(maps, 8, (4, 4), 5)


def test_operator_contract():
    maps = feature_maps([(12, 5, 4), (7, 3, 3)], dtype=torch.float32)
    torch.library.opcheck(torch.ops.moleflow.patch_pool, (maps, 10, 5, 4))


def test_compiles_as_one_graph():
    maps = feature_maps([(12, 5, 4), (7, 3, 3)], dtype=torch.float32)
    graph = torch.compile(lambda *m: patch_pool(m, 10, (5, 4)) * 2, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(*maps), patch_pool(maps, 10, (5, 4)) * 2)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], "at least one"),
        ([torch.zeros(2, 3, 4)], "must be"),
        ([torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)], "one B"),
        ([torch.zeros(2, 3, 0, 4)], "empty axis"),
    ],
)
def test_bad_input_is_an_error(maps, message):
    with pytest.raises(ValueError, match=message):
        patch_pool(maps, 8, (4, 4))


@pytest.mark.parametrize(("embed_dim", "grid"), [(0, (4, 4)), (8, (0, 4))])
def test_an_empty_result_is_an_error(embed_dim, grid):
    with pytest.raises(ValueError, match="at least 1"):
        patch_pool([torch.zeros(2, 3, 4, 4)], embed_dim, grid)
