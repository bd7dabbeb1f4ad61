"""Kernels between images and feature maps: normalisation by a table, max pooling."""

import pytest
import torch
from launches import Launches
from torch.nn import functional as F

from moleflow_fast.backend import use_backend
from moleflow_fast.data.normalization import normalized, table
from moleflow_fast.kernels.normalize import look_up
from moleflow_fast.ops.max_pool import max_pool

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_map(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "window"), [((2, 64, 9, 7), (3, 2, 1)), ((1, 5, 8, 8), (2, 2, 0)), ((3, 70, 5, 6), (3, 1, 1))]
)
def test_largest_of_each_window(shape, window, dtype, poisoned) -> None:  # type: ignore[no-untyped-def]
    x = random_map(shape, dtype)
    with use_backend("triton"), Launches() as launches:
        y = max_pool(x, *window)
    assert launches.counts["_max_pool"] == 1
    assert torch.equal(y, F.max_pool2d(x, *window)) and y.is_contiguous(memory_format=torch.channels_last)


def test_nan_is_the_largest_and_stays_in_its_windows() -> None:
    x = random_map((1, 16, 9, 9), torch.float32) - 100
    x[0, 3, 4, 4], x[0, 5] = torch.nan, -torch.inf
    with use_backend("triton"):
        y = max_pool(x, 3, 2, 1)
    torch.testing.assert_close(y, F.max_pool2d(x, 3, 2, 1), rtol=0, atol=0, equal_nan=True)
    assert y.isnan().sum() == 1


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_other_maps_take_the_definition(backend: str) -> None:
    x = random_map((2, 6, 7, 8), torch.float64)
    with use_backend(backend), Launches() as launches:
        assert torch.equal(max_pool(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1))
    assert "_max_pool" not in launches.counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bytes_are_normalised_and_filled_up(dtype, layout, poisoned) -> None:  # type: ignore[no-untyped-def]
    pixels = torch.randint(256, (3, 3, 17, 19), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels = pixels.to(DEVICE).contiguous(memory_format=layout)[..., 1:]
    out = torch.empty(0, device=DEVICE, dtype=dtype).new_empty(3, 17, 18, 8).permute(0, 3, 1, 2)
    look_up(pixels, table(pixels.device, dtype), out)
    assert torch.equal(out[:, :3], normalized(pixels).to(dtype))
    assert not out[:, 3:].any()


def test_the_table_holds_what_a_cpu_makes_of_each_byte() -> None:
    each = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    assert torch.equal(table(torch.device(DEVICE), torch.float32).cpu(), normalized(each)[0, :, 0])
