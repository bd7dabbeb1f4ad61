"""Pooling of patches by Triton kernels against the definition: on a GPU where there is one, else in the interpreter."""

import pytest
import torch

from moleflow_fast.backend import use_backend
from moleflow_fast.kernels import patch_pool as kernels
from moleflow_fast.ops.patch_pool import patch_grid, patch_pool, patch_pool_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
FORMATS = {
    "contiguous": lambda m: m.contiguous(),
    "channels_last": lambda m: m.contiguous(memory_format=torch.channels_last),
    "view": lambda m: torch.stack([m, m], -1)[..., 0],
    "transposed": lambda m: m.transpose(2, 3).contiguous().transpose(2, 3),
}
LAYERS = {
    "one map": [(12, 5, 7)],
    "one channel": [(1, 3, 4)],
    "halved": [(5, 7, 6), (11, 4, 3)],
    "three, the largest last": [(20, 3, 3), (7, 3, 3), (3, 6, 5)],
    "one line": [(9, 1, 8), (4, 5, 1)],
}


def feature_maps(layers, batch=2, dtype=torch.float32, layout="contiguous"):
    generator = torch.Generator().manual_seed(sum(map(sum, layers)))
    maps = [torch.randn(batch, *size, generator=generator).to(DEVICE, dtype) for size in layers]
    return [FORMATS[layout](m) for m in maps]


def assert_equals_definition(maps, embed_dim, grid, patch_size=3, patch_stride=1, positions=None):
    """The definition in fp64, from the values that the kernels read."""
    exact = None if positions is None else positions.double()
    expected = patch_pool_reference([m.double() for m in maps], embed_dim, grid, patch_size, patch_stride, exact)
    with use_backend("triton"):
        features = patch_pool(maps, embed_dim, grid, patch_size, patch_stride, positions)
    assert features.is_contiguous() and features.dtype == maps[0].dtype
    tolerance = TOLERANCE[maps[0].dtype] * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=tolerance)


@pytest.fixture
def launches(monkeypatch):
    """Calls of the kernels, so that a test of them cannot pass without them."""
    calls, pool = [], kernels.pool_patches
    monkeypatch.setattr(kernels, "pool_patches", lambda *args: calls.append(args) or pool(*args))
    return calls


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_equals_definition(layers, layout, launches):
    maps = feature_maps(layers, layout=layout)
    for embed_dim in (1, 10, 37):
        assert_equals_definition(maps, embed_dim, layers[0][1:])
    assert len(launches) == 3


@pytest.mark.parametrize("grid", [(1, 1), (4, 9), (11, 5)])
def test_other_grids(grid, launches):
    assert_equals_definition(feature_maps([(6, 4, 5), (9, 3, 2)], batch=3), 8, grid)
    assert launches


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("patch_size", "patch_stride"), [(1, 1), (2, 1), (3, 2), (5, 1), (4, 3)])
def test_other_patches(patch_size, patch_stride, layout, launches):
    maps = feature_maps([(6, 7, 8), (5, 6, 5)], layout=layout)
    assert_equals_definition(maps, 13, patch_grid(maps[0], patch_size, patch_stride), patch_size, patch_stride)
    assert launches


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_added_up_in_fp32(dtype, layout, launches):
    maps = feature_maps([(12, 5, 4), (40, 3, 3)], dtype=dtype, layout=layout)
    assert_equals_definition(maps, 10, (5, 4))
    assert launches


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_several_blocks_of_pixels_and_outputs(layout, launches):
    assert_equals_definition(feature_maps([(60, 6, 6), (150, 3, 3)], layout=layout), 150, (6, 6))
    assert launches


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_long_windows_keep_their_precision(layout):
    maps = [FORMATS[layout](1000 + m) for m in feature_maps([(600, 3, 3)], batch=1)]
    assert_equals_definition(maps, 4, (3, 3))


def test_positions_are_added(launches):
    maps = feature_maps([(7, 4, 3), (5, 2, 2)])
    assert_equals_definition(maps, 9, (4, 3), positions=torch.randn(4, 3, 9, device=DEVICE))
    assert launches


def test_a_broken_value_stays_in_its_neighbourhood():
    (m,) = feature_maps([(16, 7, 7)])
    m[0, 5, 3, 3] = torch.nan
    with use_backend("triton"):
        features = patch_pool([m], 32, (7, 7))
    expected = patch_pool_reference([m], 32, (7, 7))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_no_image():
    with use_backend("triton"):
        features = patch_pool([torch.empty(0, 4, 3, 3, device=DEVICE, dtype=torch.bfloat16)], 8, (3, 3))
    assert features.shape == (0, 3, 3, 8) and features.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_only_its_own_backend_takes_it(backend, launches):
    with use_backend(backend):
        patch_pool(feature_maps([(6, 4, 4)]), 8, (4, 4))
    assert bool(launches) == (backend == "auto" and DEVICE == "cuda")


def test_what_it_cannot_do_takes_the_convolution(launches, monkeypatch):
    (m,) = feature_maps([(6, 4, 4)])
    with use_backend("triton"):
        assert patch_pool([m.double()], 8, (4, 4)).dtype == torch.float64
        patch_pool([m.requires_grad_()], 8, (4, 4)).sum().backward()
        assert m.grad.abs().sum() > 0
        monkeypatch.setattr("moleflow_fast.ops.patch_pool.why_not_triton", lambda device: "not installed")
        patch_pool([m.detach()], 8, (4, 4))
    assert not launches
