"""The depthwise convolution on Triton kernels."""

import pytest
import torch
from kernel_checks import assert_near_definition, assert_same_bits_twice, random

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.depthwise import depthwise, depthwise_reference

# B, H, W, C, kernel: one line or column, odd sizes, several stripes of lines and of columns.
SHAPES = [
    (1, 1, 1, 1, 3), (2, 1, 17, 5, 3), (3, 3, 7, 37, 3), (2, 5, 3, 16, 5), (1, 9, 2, 130, 7), (2, 17, 35, 3, 3),
    (1, 4, 5, 6, 1),
]  # fmt: skip


def inputs(images: int, height: int, width: int, channels: int, kernel: int) -> list[torch.Tensor]:
    return [random(images, height, width, channels), random(kernel**2, channels), random(channels)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("poisoned")
def test_result_and_gradients(shape: tuple[int, ...]) -> None:
    assert_near_definition(depthwise, inputs(*shape))


def test_strided_operands() -> None:
    x, taps, bias = inputs(2, 4, 5, 6, 3)
    with use_backend("triton"):
        y = depthwise(x.transpose(1, 2), taps.t().contiguous().t(), bias)
    torch.testing.assert_close(y, depthwise_reference(x.transpose(1, 2), taps, bias), rtol=1e-5, atol=1e-5)


def test_the_same_bits_twice() -> None:
    assert_same_bits_twice(depthwise, inputs(3, 6, 7, 20, 3))


def test_an_image_does_not_feel_its_neighbour() -> None:
    x, taps, bias = inputs(3, 4, 5, 8, 5)
    x[1] = torch.nan
    with use_backend("triton"):
        y = depthwise(x, taps, bias)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


def test_no_images() -> None:
    x, taps, bias = inputs(1, 2, 2, 4, 3)
    with use_backend("triton"):
        assert depthwise(x[:0], taps, bias).shape == (0, 2, 2, 4)


def test_frozen_taps_get_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from moleflow_fast.kernels import depthwise as kernels

    x, taps, bias = inputs(2, 3, 4, 5, 3)
    x.requires_grad_(True)
    (expected,) = torch.autograd.grad(depthwise_reference(x, taps, bias).square().sum(), x)
    monkeypatch.setattr(kernels, "tap_gradients", lambda *_: pytest.fail("its work is for nothing"))
    with use_backend("triton"):
        (gradient,) = torch.autograd.grad(depthwise(x, taps, bias).square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
