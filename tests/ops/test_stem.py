"""The first convolution on blocks of pixels, and its kernels, beside the convolution that it is."""

import pytest
import torch
from torch.nn import functional as F

from moleflow_fast.backend import use_backend
from moleflow_fast.data.normalization import normalized, table
from moleflow_fast.ops.stem import blocked, blocks_of, stem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(2, 3, 12, 10, 16), (1, 3, 11, 13, 64), (3, 1, 7, 8, 70), (1, 4, 30, 26, 24)]  # B, C, H, W, outputs


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_is_the_convolution(backend: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, channels, height, width, outputs = size
    images, weight, bias = random(batch, channels, height, width), random(outputs, channels, 7, 7) / 7, random(outputs)
    images, weight, bias = images.to(dtype), weight.to(dtype), bias.to(dtype)
    expected = F.conv2d(images.double(), weight.double(), bias.double(), 2, 3).relu()
    with use_backend(backend):
        y = stem(blocks_of(images), blocked(weight), bias)
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
    bound = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert float((y.double() - expected).abs().max()) < bound * float(expected.abs().max())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_around_it_and_in_no_other_image(value: float) -> None:
    images, weight, bias = random(2, 3, 12, 12), random(16, 3, 7, 7), random(16)
    images[0, 1, 5, 6] = value
    broken = ~F.conv2d(images, weight, bias, 2, 3).relu().isfinite().all(1)
    with use_backend("triton"):
        found = ~stem(blocks_of(images), blocked(weight), bias).isfinite().all(1)
    assert broken.any() and found[broken].all()
    # The eighth tap, whose weight is zero, makes NaN of it one output further.
    assert found[0].sum() <= 16 and not found[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 10, 14), (1, 3, 9, 7)])
def test_bytes_become_blocks(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    from moleflow_fast.kernels.stem import look_up_blocks

    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    expected = blocks_of(normalized(pixels).to(dtype))
    for laid_out in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
        out = torch.full_like(expected, torch.nan)
        assert torch.equal(look_up_blocks(laid_out, table(pixels.device, dtype), out), expected)
