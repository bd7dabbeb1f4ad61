"""What goes with the flow's products, kernel by kernel, with operands of fp32 and fp16, on a GPU bf16 too.

No tile divides the sizes, and the padding is full of NaN.
"""

import pytest
import torch
from kernel_checks import DEVICE, random

from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.merge import merge
from moleflow_fast.kernels.rows import gather_rows, scatter_gradient, taps_gradient
from moleflow_fast.kernels.transpose import enter, leave
from moleflow_fast.ops.depthwise import depthwise_reference

pytestmark = pytest.mark.usefixtures("poisoned")
# The interpreter multiplies the raw bits of bf16.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
BOUND = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
GRID = (2, 3, 7)  # images, H, W
TOKENS = 42


def rows(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """A random (count, TOKENS) tensor in a padded layout."""
    out = channel_major(count, TOKENS, torch.empty(0, device=DEVICE), dtype)
    return out.copy_(random(count, TOKENS, seed=seed))


def assert_near(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    error = (actual.double() - expected.double()).abs().max()
    assert float(error) <= BOUND[dtype] * float(expected.abs().max()), float(error)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_their_context(dtype: torch.dtype, kernel: int) -> None:
    state, pending, taps, bias = rows(12), random(12, 2), random(kernel**2, 5), random(5)
    at = torch.tensor([3, 11, 0, 7, 4], device=DEVICE)
    out = gather_rows(state, at.int(), pending, channel_major(10, TOKENS, state, dtype), (taps, bias), GRID)
    x1 = (state[at] * pending[at, :1] + pending[at, 1:]).double().requires_grad_(True)
    image = x1.t().reshape(*GRID, 5)
    context = depthwise_reference(image, taps.double(), bias.double()).reshape(TOKENS, 5).t()
    assert_near(out, torch.cat([x1, context]).detach(), dtype)

    dx, grad, affine = rows(10, dtype, seed=5), rows(12, seed=6), random(5, 2)
    (through,) = torch.autograd.grad((context * dx[5:].double()).sum(), x1)
    expected = grad[at].double() * affine[:, :1].double() + dx[:5].double() + through
    scatter_gradient(dx, at.int(), affine, taps, grad, GRID)
    assert_near(grad[at], expected, torch.float32)

    leaf = taps.double().requires_grad_(True)
    inputs = out[:5].double().t().reshape(*GRID, 5)
    convolved = depthwise_reference(inputs, leaf, bias.double()).reshape(TOKENS, 5).t()
    (expected,) = torch.autograd.grad((convolved * dx[5:].double()).sum(), leaf)
    dtaps, dbias = taps_gradient(out[:5], dx[5:], kernel, GRID)
    assert_near(dtaps, expected, torch.float32)
    assert_near(dbias, dx[5:].double().sum(1), torch.float32)


def test_in_and_out_again() -> None:
    x, at = random(TOKENS, 21), torch.randperm(21, generator=torch.Generator().manual_seed(1)).int().to(DEVICE)
    state, pending = enter(x, at, rows(21)), random(21, 2)
    assert torch.equal(state[at.long()], x.t())
    assert torch.equal(leave(state, at, None, torch.empty_like(x)), x)
    expected = (x.t() * pending[at.long(), :1] + pending[at.long(), 1:]).t()
    torch.testing.assert_close(leave(state, at, pending, torch.empty_like(x)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 40])
def test_merged_weights(dtype: torch.dtype, rank: int) -> None:
    weight, lora_a, lora_b = random(37, 21), random(rank, 21), random(37, rank)
    out = torch.full((37, 30), torch.nan, device=DEVICE, dtype=dtype)
    merge(weight, lora_a, lora_b, 0.3, out[:, :21])
    assert_near(out[:, :21], weight.double() + 0.3 * lora_b.double() @ lora_a.double(), dtype)
    assert out[:, 21:].isnan().all()
