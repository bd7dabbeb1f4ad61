import pytest
import torch
from kernel_checks import DEVICE, on_triton, random

from moleflow_fast.ops.pixel_map import pixel_map, pixel_map_reference

MODES = ["bilinear", "bicubic"]
WORST = 1e30
TOLERANCE = 6e-6


def assert_equal_to_definition(maps: torch.Tensor, size: int, sigma: float, mode: str) -> None:
    pixels = on_triton(pixel_map, maps, size, sigma, mode)
    assert pixels.dtype == torch.float32 and pixels.is_contiguous()
    expected = pixel_map_reference(maps.double(), size, sigma, mode)
    torch.testing.assert_close(pixels.double(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("shape", "size", "sigma"),
    [((1, 1, 1), 1, 0.0), ((3, 5, 7), 20, 1.0), ((2, 17, 3), 33, 4.0), ((1, 40, 1), 9, 0.4), ((2, 9, 9), 50, 23.0)],
)
@pytest.mark.parametrize("mode", MODES)
def test_equal_to_the_definition(mode, shape, size, sigma, poisoned):
    assert_equal_to_definition(random(*shape), size, sigma, mode)


@pytest.mark.parametrize("mode", MODES)
def test_the_usual_size_takes_several_tiles(mode, poisoned):
    assert_equal_to_definition(random(2, 28, 28), 224, 4.0, mode)


def test_views():
    assert_equal_to_definition(random(6, 9, 7).transpose(1, 2)[::2], 33, 2.0, "bicubic")


@pytest.mark.parametrize("sigma", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("patches", [15, 28])
def test_a_broken_patch_is_alone_beyond_its_reach(patches, mode, sigma):
    """To the bit."""
    size, maps = 8 * patches, random(1, patches, patches)
    whole = on_triton(pixel_map, maps, size, sigma, mode)[0]
    maps[0, 3, 12] = WORST
    broken = on_triton(pixel_map, maps, size, sigma, mode)[0]
    assert broken.isfinite().all()
    scale = (size - 1) / (patches - 1) if mode == "bilinear" else 8
    at = [p * scale if mode == "bilinear" else (p + 0.5) * scale - 0.5 for p in (3, 12)]
    row, column = divmod(int(broken.argmax()), size)
    assert abs(row - at[0]) <= 1 and abs(column - at[1]) <= 1
    # two patches of bicubic, one of bilinear, and what the Gaussian adds
    reach = scale * (1 if mode == "bilinear" else 2) + int(4 * sigma + 0.5) + 1
    pixels = torch.arange(size, device=DEVICE)
    beyond = ((pixels - at[0]).abs() > reach)[:, None] | ((pixels - at[1]).abs() > reach)
    assert torch.equal(broken[beyond], whole[beyond])


def test_a_resize_without_smoothing_leaks_nothing_where_grids_meet():
    maps = torch.zeros(1, 28, 28, device=DEVICE)
    maps[0, 10, 10] = WORST
    pixels = on_triton(pixel_map, maps, 28 * 3 - 2, 0.0, "bilinear")  # every third pixel is a patch
    assert (pixels[0, ::3, ::3] != 0).sum() == 1


def test_tf32_is_not_taken_even_where_it_is_allowed(monkeypatch):
    from moleflow_fast.kernels import pixel_map as kernels

    taken, plain = [], kernels._batched.run
    monkeypatch.setattr(kernels._batched, "run", lambda *a, **o: taken.append(o["PRECISION"]) or plain(*a, **o))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert torch.backends.cuda.matmul.allow_tf32
        assert_equal_to_definition(random(1, 6, 6), 20, 1.0, "bilinear")
    finally:
        torch.set_float32_matmul_precision(before)
    assert taken == ["ieee", "ieee"]


def test_no_tap_is_gathered(monkeypatch):
    from moleflow_fast.ops import pixel_map as operation

    maps = random(2, 6, 5)
    expected = on_triton(pixel_map, maps, 24, 2.0)
    for name in ("gaussian_smooth", "gaussian_smooth_reference", "_resize"):
        monkeypatch.setattr(operation, name, None)
    assert torch.equal(on_triton(pixel_map, maps, 24, 2.0), expected)


def test_matrices_stay_on_the_device():
    from moleflow_fast.ops.pixel_map import _device_matrix

    on_triton(pixel_map, random(1, 6, 5), 24, 2.0)
    misses = _device_matrix.cache_info().misses
    on_triton(pixel_map, random(3, 6, 5), 24, 2.0)
    assert _device_matrix.cache_info().misses == misses


def test_same_bits_twice_and_no_maps():
    maps = random(2, 6, 5)
    assert torch.equal(on_triton(pixel_map, maps, 24, 2.0), on_triton(pixel_map, maps, 24, 2.0))
    assert on_triton(pixel_map, maps[:0], 24, 2.0).shape == (0, 24, 24)


def test_the_plain_path_takes_what_triton_does_not():
    maps = random(2, 3, 4).requires_grad_(True)
    on_triton(pixel_map, maps, 8, 1.0).sum().backward()
    torch.testing.assert_close(maps.grad.sum(), torch.tensor(128.0, device=DEVICE))
    assert on_triton(pixel_map, maps.detach().double(), 8, 1.0).dtype == torch.float64


def test_operator_contract():
    checks = ("test_schema", "test_faketensor")
    arguments = (random(2, 5, 4), 12, 1.0, "bilinear")
    on_triton(torch.library.opcheck, torch.ops.moleflow.pixel_map, arguments, test_utils=checks)
