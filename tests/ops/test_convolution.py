"""The fused convolution: on a CPU its definition, on a GPU calls of libraries, which this holds to it."""

import pytest
import torch
from launches import Launches
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.ops.convolution import convolution, convolution_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# input and output channels, side, stride, padding, groups
WINDOWS = {
    "one pixel": (16, 24, 1, 1, 0, 1),
    "one pixel, stride 2": (16, 24, 1, 2, 0, 1),
    "3 x 3": (16, 24, 3, 1, 1, 1),
    "first": (8, 16, 7, 2, 3, 1),
    "grouped": (32, 32, 3, 1, 1, 4),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE)


def operands(window: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], tuple]:
    inputs, outputs, side, stride, padding, groups = window
    x, weight = random(2, inputs, 9, 7), random(outputs, inputs // groups, side, side, seed=1) / side
    y = F.conv2d(x, weight, None, stride, padding, 1, groups)
    tensors = [x, weight, random(outputs, seed=2), random(*y.shape, seed=3)]
    laid_out = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
    return [t.to(dtype) for t in laid_out], ([stride] * 2, [padding] * 2, [1, 1], groups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_equals_convolution_sum_and_relu(window, with_residual, relu, dtype) -> None:  # type: ignore[no-untyped-def]
    (x, weight, bias, residual), rest = operands(window, dtype)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), *rest) + with_residual * residual.double()
    expected = expected.clamp_min(0) if relu else expected
    given = residual if with_residual else None
    for _ in range(2):  # a result of NaN before, in whose memory the next one is written, must not show
        actual = convolution(x, weight, bias, given, *rest, relu)
        bound = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
        assert float((actual.double() - expected).abs().max()) < bound * float(expected.abs().max())
        actual.fill_(torch.nan)
        del actual


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_a_bare_convolution(window) -> None:  # type: ignore[no-untyped-def]
    (x, weight, _, _), rest = operands(window)
    torch.testing.assert_close(convolution(x, weight, None, None, *rest, False), F.conv2d(x, weight, None, *rest))


def test_overflow_is_not_hidden() -> None:
    """What leaves the range of fp16 is infinite behind the ReLU, as it is in the definition."""
    (x, weight, bias, residual), rest = operands(WINDOWS["3 x 3"], torch.float16)
    x, weight = x.abs() * 3000, weight.abs() * 100
    for given in (None, residual):
        actual = convolution(x, weight, bias, given, *rest, True)
        assert torch.equal(actual.isinf(), convolution_reference(x, weight, bias, given, *rest, True).isinf())
        assert actual.isinf().any()


def test_counts_as_one_call() -> None:
    (x, weight, bias, residual), rest = operands(WINDOWS["3 x 3"])
    with Launches() as launches:
        convolution(x, weight, bias, residual, *rest, True)
    assert launches.counts == {"moleflow::convolution": 1}
