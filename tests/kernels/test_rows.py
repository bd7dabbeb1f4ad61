"""Rows out of the state and back, with operands of fp32 and fp16, on a GPU bf16 too; the padding is full of NaN."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from kernel_checks import DEVICE, random
from torch import Tensor

from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.rows import gather_rows, scatter_gradient, taps_gradient
from moleflow_fast.kernels.transpose import enter, leave
from moleflow_fast.ops.depthwise import depthwise_reference

pytestmark = pytest.mark.usefixtures("poisoned")
# The interpreter multiplies the raw bits of bf16.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
BOUND = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of the largest value
AT = [3, 11, 0, 7, 4]  # rows of the state, of which there are 12
# images, H, W, kernel: lines of groups of one, two and four tokens; windows wider than the image; several programs.
WINDOWS = [
    (1, 1, 1, 3), (2, 3, 7, 3), (1, 1, 17, 3), (3, 5, 6, 5), (2, 3, 4, 7), (5, 7, 7, 1), (2, 14, 14, 3), (3, 27, 28, 3),
    (1, 49, 23, 3),
]  # fmt: skip


class Operands(NamedTuple):
    grid: tuple[int, int, int]
    at: Tensor
    state: Tensor  # (12, N)
    pending: Tensor
    taps: Tensor
    bias: Tensor
    dx: Tensor  # (10, N) in the operands' dtype

    @property
    def rows(self) -> Tensor:
        return self.at.int()


def rows(count: int, tokens: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """A random (count, tokens) tensor in a padded layout."""
    out = channel_major(count, tokens, torch.empty(0, device=DEVICE), dtype)
    return out.copy_(random(count, tokens, seed=seed))


def operands(images: int, height: int, width: int, kernel: int, dtype: torch.dtype = torch.float32) -> Operands:
    tokens = images * height * width
    return Operands(
        (images, height, width), torch.tensor(AT, device=DEVICE), rows(12, tokens), random(12, 2),
        random(kernel**2, 5), random(5), rows(10, tokens, dtype, seed=5),
    )  # fmt: skip


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (actual.double() - expected.double()).abs().max()
    assert float(error) <= BOUND[dtype] * max(1.0, float(expected.abs().max())), float(error)


def context(x1: Tensor, taps: Tensor, bias: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The definition on rows (5, N), in fp64."""
    image = x1.t().reshape(*grid, 5)
    return depthwise_reference(image, taps.double(), bias.double()).reshape(-1, 5).t()


def gathered(it: Operands, dtype: torch.dtype) -> Tensor:
    out = channel_major(10, it.state.shape[1], it.state, dtype)
    return gather_rows(it.state, it.rows, it.pending, out, (it.taps, it.bias), it.grid)


def scattered(it: Operands) -> Tensor:
    grad = rows(12, it.state.shape[1], seed=6)
    scatter_gradient(it.dx, it.rows, random(5, 2), it.taps, grad, it.grid)
    return grad


def tap_gradients(it: Operands) -> tuple[Tensor, Tensor]:
    out = torch.full_like(it.taps, torch.nan), torch.full_like(it.bias, torch.nan)
    taps_gradient(it.dx[:5], it.dx[5:], round(len(it.taps) ** 0.5), it.grid, out)
    return out


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_their_context(dtype: torch.dtype, window: tuple[int, ...]) -> None:
    it = operands(*window, dtype=dtype)
    x1 = it.state[it.at].double() * it.pending[it.at, :1].double() + it.pending[it.at, 1:].double()
    assert_near(gathered(it, dtype), torch.cat([x1, context(x1, it.taps, it.bias, it.grid)]), dtype)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_through_the_context(dtype: torch.dtype, window: tuple[int, ...]) -> None:
    it = operands(*window, dtype=dtype)
    direct, below = it.dx.double().split(5)
    x1 = torch.zeros_like(direct).requires_grad_(True)
    (through,) = torch.autograd.grad((context(x1, it.taps, it.bias, it.grid) * below).sum(), x1)
    before, grad = rows(12, it.state.shape[1], seed=6), scattered(it)
    assert_near(grad[it.at], before[it.at].double() * random(5, 2)[:, :1].double() + direct + through, torch.float32)
    untouched = torch.ones(12, dtype=torch.bool, device=DEVICE).index_fill(0, it.at, False)
    assert torch.equal(grad[untouched], before[untouched])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_the_taps(dtype: torch.dtype, window: tuple[int, ...]) -> None:
    it = operands(*window, dtype=dtype)
    x1, below = it.dx.double().split(5)
    leaves = it.taps.double().requires_grad_(True), it.bias.double().requires_grad_(True)
    expected = torch.autograd.grad((context(x1, *leaves, it.grid) * below).sum(), leaves)
    scale = float(x1[0].numel()) ** 0.5  # of a sum of products that cancel
    for actual, exact in zip(tap_gradients(it), expected, strict=True):
        assert_near(actual / scale, exact / scale, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_context(dtype: torch.dtype) -> None:
    it = operands(2, 3, 7, 3, dtype)
    expected = it.state[it.at] * it.pending[it.at, :1] + it.pending[it.at, 1:]
    out = gather_rows(it.state, it.rows, it.pending, channel_major(5, 42, it.state, dtype), None, it.grid)
    assert_near(out, expected, dtype)
    grad, affine = rows(12, 42, seed=6), random(5, 2)
    expected = grad[it.at] * affine[:, :1] + it.dx[:5].float()
    scatter_gradient(it.dx[:5], it.rows, affine, None, grad, it.grid)
    assert_near(grad[it.at], expected, torch.float32)


def test_padding_is_written() -> None:
    """Products read it: what memory held before must not stand there."""
    out = gathered(operands(1, 3, 5, 3), torch.float32)
    assert torch.as_strided(out, (10, 16), (16, 1)).isfinite().all()


@pytest.mark.parametrize("width", [7, 6, 8])
def test_a_broken_token_reaches_its_window_alone(width: int) -> None:
    it = operands(2, 5, width, 3)
    it.state[:, 5 * width + 2 * width + 3] = torch.nan  # of the second image, line 2, column 3
    broken = gathered(it, torch.float32)[5:].isnan().reshape(5, *it.grid)
    expected = torch.zeros_like(broken)
    expected[:, 1, 1:4, 2:5] = True
    assert torch.equal(broken, expected)


@pytest.mark.parametrize(
    "function", [lambda it: [gathered(it, torch.float32)], lambda it: [scattered(it)], tap_gradients]
)
def test_the_same_bits_twice(function: Callable[[Operands], Sequence[Tensor]]) -> None:
    first, second = (function(operands(2, 27, 28, 3)) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_in_and_out_again() -> None:
    x, at = random(42, 21), torch.randperm(21, generator=torch.Generator().manual_seed(1)).int().to(DEVICE)
    state, pending = enter(x, at, rows(21, 42)), random(21, 2)
    assert torch.equal(state[at.long()], x.t())
    assert torch.equal(leave(state, at, None, torch.empty_like(x)), x)
    expected = (x.t() * pending[at.long(), :1] + pending[at.long(), 1:]).t()
    torch.testing.assert_close(leave(state, at, pending, torch.empty_like(x)), expected, rtol=1e-6, atol=1e-6)
