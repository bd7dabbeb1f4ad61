"""Pooling of patches by Triton kernels against the definition: on a GPU where there is one, else in the interpreter."""

import pytest
import torch
from launches import Launches

from moleflow_fast.backend import use_backend
from moleflow_fast.kernels import patch_pool as kernels
from moleflow_fast.ops.patch_pool import patch_grid, patch_pool, patch_pool_and_means, patch_pool_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = 1e-6  # sums are fp32, whatever the maps are
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


def assert_equals_definition(maps, embed_dim, grid, patch_size=3, patch_stride=1):
    """The definition in fp64, from the values that the kernels read."""
    expected = patch_pool_reference([m.double() for m in maps], embed_dim, grid, patch_size, patch_stride)
    with use_backend("triton"):
        features = patch_pool(maps, embed_dim, grid, patch_size, patch_stride)
    assert features.is_contiguous() and features.dtype == torch.float32
    tolerance = TOLERANCE * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=tolerance)


@pytest.fixture
def launches(monkeypatch):
    """Calls of the kernels, so that a test of them cannot pass without them."""
    calls, pool = [], kernels.pool_patches
    monkeypatch.setattr(kernels, "pool_patches", lambda *args: calls.append(args) or pool(*args))
    return calls


@pytest.fixture
def kinds(monkeypatch):
    """Which kernel pooled each map."""
    names = []
    for name in ("any", "groups"):
        kernel = getattr(kernels, f"_pool_{name}")
        monkeypatch.setattr(kernels, f"_pool_{name}", Noting(kernel, name, names))
    return names


class Noting:
    """A kernel that notes its launches."""

    def __init__(self, kernel, name, names):
        self.kernel, self.name, self.names = kernel, name, names

    def __getitem__(self, programs):
        self.names.append(self.name)
        return self.kernel[programs]


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


# Outputs and channels of a group; of a WideResNet-50-2 pooled to 768 values 3 of 2, and 3 of 4.
GROUPS = {(1, 1): 40, (2, 1): 20, (4, 1): 20, (3, 1): 17, (3, 2): 140, (3, 4): 70, (1, 2): 9, (1, 4): 20, (2, 4): 5}


@pytest.mark.parametrize(
    ("group", "groups", "patch_size"), [*((*it, 3) for it in GROUPS.items()), ((3, 2), 5, 1), ((3, 2), 5, 5)]
)
def test_windows_that_repeat(group, groups, patch_size, kinds, poisoned):
    outputs, inputs = group
    maps = feature_maps([(groups * inputs, 5, 6)], layout="channels_last")
    assert_equals_definition(maps, groups * outputs, (5, 6), patch_size)
    assert kinds == ["groups"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", [1, -1])
def test_maps_of_a_wide_resnet(order, dtype, kinds, poisoned):
    """The second map is added while the first is pooled; a third is added to their sum."""
    maps = feature_maps([(48, 5, 9), (96, 3, 5), (24, 9, 9)][::order], dtype=dtype, layout="channels_last")
    assert_equals_definition(maps, 72, (5, 9))
    assert kinds == ["groups"] * 3


# Maps whose last kernel adds up what it writes, and others, whose result is read again.
ADDED_UP = {
    "one map": ([(48, 5, 6)], "groups"),
    "two maps": ([(48, 5, 6), (96, 3, 3)], "groups"),
    "two of one size": ([(48, 5, 6), (96, 5, 6)], "groups"),
    "three maps": ([(48, 5, 6), (96, 3, 3), (24, 2, 3)], "mean"),
    "other windows": ([(50, 5, 6)], "mean"),
}


@pytest.mark.parametrize(("layers", "how"), ADDED_UP.values(), ids=ADDED_UP)
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_means_of_patches(layers, how, backend, poisoned):
    maps = feature_maps(layers, layout="channels_last")
    expected = patch_pool_reference([m.double() for m in maps], 72, (5, 6)).mean((1, 2))
    with use_backend(backend), Launches() as launches:
        patches, means = patch_pool_and_means(maps, 72, (5, 6))
        assert torch.equal(patches, patch_pool(maps, 72, (5, 6)))
    torch.testing.assert_close(means.double(), expected, rtol=0, atol=1e-6)
    assert ("torch.mean" not in launches.counts) == (how == "groups" and backend == "triton")


def test_two_maps_of_one_size(kinds, poisoned):
    maps = [*feature_maps([(48, 5, 6), (96, 5, 6)], layout="channels_last"), *feature_maps([(50, 5, 6)])]
    assert_equals_definition(maps, 72, (5, 6))
    assert kinds == ["groups", "groups", "any"]


def test_other_windows_take_any_map(kinds):
    for channels, embed_dim, layout in ((50, 72, "channels_last"), (48, 70, "channels_last"), (48, 72, "contiguous")):
        assert_equals_definition(feature_maps([(channels, 4, 5)], layout=layout), embed_dim, (4, 5))
    assert kinds == ["any"] * 3


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("embed_dim", [24, 32])
def test_a_broken_value_stays_in_its_neighbourhood(layout, embed_dim):
    (m,) = feature_maps([(16, 7, 7)], layout=layout)
    m[0, 5, 3, 3] = torch.nan
    with use_backend("triton"):
        features = patch_pool([m], embed_dim, (7, 7))
    expected = patch_pool_reference([m], embed_dim, (7, 7))
    assert 0 < expected.isnan().sum() < 60
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_same_bits_twice():
    maps = feature_maps([(48, 5, 9), (96, 3, 5)], layout="channels_last")
    with use_backend("triton"):
        first, second = (patch_pool(maps, 72, (5, 9)) for _ in range(2))
    assert torch.equal(first, second)


def test_no_image():
    with use_backend("triton"):
        features = patch_pool([torch.empty(0, 4, 3, 3, device=DEVICE, dtype=torch.bfloat16)], 8, (3, 3))
    assert features.shape == (0, 3, 3, 8) and features.dtype == torch.float32


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
        monkeypatch.setattr("moleflow_fast.ops.patch_pool.wants_triton", lambda device: False)
        patch_pool([m.detach()], 8, (4, 4))
    assert not launches
