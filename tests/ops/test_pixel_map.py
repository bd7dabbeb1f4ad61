"""Pixel maps: one matrix per axis against resizing and smoothing one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_fast.backend import BackendError, use_backend
from moleflow_fast.ops.pixel_map import pixel_map, pixel_map_reference

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
MODES = ["bilinear", "bicubic"]
WORST = 1e30


def compiled(*args):
    with use_backend("cpp"):
        return pixel_map(*args)


def plain(*args):
    with use_backend("eager"):
        return pixel_map(*args)


def random_maps(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 17)),
    size=st.integers(1, 50),
    sigma=st.sampled_from([0.0, 0.1, 0.4, 1.0, 4.0, 23.0]),
    mode=st.sampled_from(MODES),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_equal_to_the_definition(shape, size, sigma, mode, dtype):
    maps = random_maps(shape).to(dtype)
    expected = pixel_map_reference(maps.double(), size, sigma, mode)
    pixels = compiled(maps, size, sigma, mode)
    assert pixels.dtype == dtype and pixels.is_contiguous()
    torch.testing.assert_close(pixels.double(), expected, rtol=0, atol=6 * TOLERANCE[dtype])


@pytest.mark.parametrize("pixels_of", [compiled, plain])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_usual_size(dtype, mode, pixels_of):
    maps = random_maps((2, 28, 28)).to(dtype)
    expected = pixel_map_reference(maps.double(), 224, 4.0, mode)
    pixels = pixels_of(maps, 224, 4.0, mode)
    torch.testing.assert_close(pixels.double(), expected, rtol=0, atol=6 * TOLERANCE[dtype])


def test_views_and_threads():
    maps = random_maps((14, 9, 6), torch.float32).transpose(1, 2)[::2]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(compiled(maps, 33, 2.0, "bicubic"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], pixel_map_reference(maps, 33, 2.0, "bicubic"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("patches", [15, 28, 29])
def test_a_broken_patch_is_largest_around_itself_and_alone_beyond_its_reach(patches, mode, sigma):
    maps = random_maps((1, patches, patches), torch.float32)
    whole = compiled(maps, 224, sigma, mode)[0]
    maps[0, 3, 12] = WORST
    broken = compiled(maps, 224, sigma, mode)[0]
    assert broken.isfinite().all()

    scale = 223 / (patches - 1) if mode == "bilinear" else 224 / patches
    at = [p * scale if mode == "bilinear" else (p + 0.5) * scale - 0.5 for p in (3, 12)]
    row, column = divmod(int(broken.argmax()), 224)
    assert abs(row - at[0]) <= 1 and abs(column - at[1]) <= 1

    # two patches of bicubic, one of bilinear, and what the Gaussian adds
    reach = scale * (1 if mode == "bilinear" else 2) + int(4 * sigma + 0.5) + 1
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    beyond = ((y - at[0]).abs() > reach) | ((x - at[1]).abs() > reach)
    assert torch.equal(broken[beyond], whole[beyond])


def test_a_resize_without_smoothing_leaks_nothing_where_grids_meet():
    maps = torch.zeros(1, 28, 28)
    maps[0, 10, 10] = WORST
    pixels = compiled(maps, 28 * 3 - 2, 0.0, "bilinear")  # every third pixel is a patch
    assert (pixels[0, ::3, ::3] != 0).sum() == 1


def test_a_constant_map_stays():
    torch.testing.assert_close(compiled(torch.full((1, 5, 7), 7.25), 40, 4.0), torch.full((1, 40, 40), 7.25))


def test_no_map():
    assert compiled(torch.empty(0, 4, 4), 16, 1.0).shape == (0, 16, 16)


def test_half_precision_and_gradients_take_the_plain_path():
    assert pixel_map(random_maps((1, 4, 4), torch.bfloat16), 16, 1.0).dtype == torch.bfloat16
    maps = random_maps((1, 4, 4)).requires_grad_()
    pixel_map(maps, 16, 1.0).sum().backward()
    torch.testing.assert_close(maps.grad.sum(), torch.tensor(256.0, dtype=torch.float64))
    with pytest.raises(BackendError, match="gradient"):
        compiled(maps, 16, 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_operator_contract(mode):
    torch.library.opcheck(torch.ops.moleflow.pixel_map, (random_maps((2, 5, 4)), 12, 1.0, mode))


def test_compiles_as_one_graph():
    maps = random_maps((2, 5, 4))
    graph = torch.compile(lambda m: pixel_map(m, 12, 1.0) + 1, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(maps), pixel_map(maps, 12, 1.0) + 1)


@pytest.mark.parametrize(
    ("shape", "size", "sigma", "mode", "message"),
    [
        ((3, 4), 8, 1.0, "bilinear", "must be"),
        ((2, 0, 4), 8, 1.0, "bilinear", "at least one patch"),
        ((2, 3, 4), 0, 1.0, "bilinear", "size must be"),
        ((2, 3, 4), 8, -1.0, "bilinear", "sigma"),
        ((2, 3, 4), 8, torch.nan, "bilinear", "sigma"),
        ((2, 3, 4), 8, 1.0, "nearest", "mode must be"),
    ],
)
def test_bad_input_is_an_error(shape, size, sigma, mode, message):
    with pytest.raises(ValueError, match=message):
        pixel_map(torch.zeros(shape), size, sigma, mode)
