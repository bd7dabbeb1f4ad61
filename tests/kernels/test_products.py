"""The flow's kernels one by one, with operands of fp32 and fp16, on a GPU bf16 too.

No tile divides the sizes, and the padding is full of NaN.
"""

import pytest
import torch
from kernel_checks import DEVICE, random

from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.coupling import coupling_backward, coupling_product, logdet_tiles
from moleflow_fast.kernels.products import relu_gradient_product, relu_product, sum_tiles
from moleflow_fast.ops.coupling import Clamping

pytestmark = pytest.mark.usefixtures("poisoned")
# The interpreter multiplies the raw bits of bf16.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
BOUND = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
CLAMPING = Clamping(1.9, 0.1, 0.3)
TOKENS = 42


def rows(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """A random (count, TOKENS) tensor in a padded layout."""
    out = channel_major(count, TOKENS, torch.empty(0, device=DEVICE), dtype)
    return out.copy_(random(count, TOKENS, seed=seed))


def partial_sums(columns: int) -> torch.Tensor:
    """Room in the middle of a wider buffer, full of NaN."""
    return torch.full((sum_tiles(TOKENS), columns + 5), torch.nan, device=DEVICE)[:, 2 : columns + 2]


def assert_near(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    error = (actual.double() - expected.double()).abs().max()
    assert float(error) <= BOUND[dtype] * float(expected.abs().max()), float(error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [None, (19, 11)])
def test_hidden_layers(dtype: torch.dtype, inner: tuple[int, int] | None) -> None:
    weight, bias, x = random(34, 19).to(dtype), random(34), rows(23, dtype)
    out = channel_major(34, TOKENS, x)
    relu_product(weight, bias, x, out, inner, first_row=5 if inner else 0)
    w, x64 = weight.double(), x.double()
    expected = w @ x64[:19] if inner is None else torch.cat([w[:17] @ x64[:19], w[17:, :11] @ x64[5:16]])
    assert_near(out, (expected + bias.double()[:, None]).relu(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_hidden_layers(dtype: torch.dtype) -> None:
    weight, dy, hidden = random(26, 9).to(dtype), rows(26, dtype), rows(18, dtype, seed=1)
    out, sums = channel_major(18, TOKENS, dy), partial_sums(18)
    tiles = relu_gradient_product(weight, dy, hidden, out, 2, sums)
    w, dy64 = weight.double(), dy.double()
    expected = torch.cat([w[:13].t() @ dy64[:13], w[13:].t() @ dy64[13:]]) * (hidden > 0)
    assert_near(out, expected, dtype)
    assert_near(sums[:tiles].sum(0), expected.sum(1), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_coupling_and_its_gradient(dtype: torch.dtype) -> None:
    channels, weight, bias = 21, random(42, 17).to(dtype), random(42)
    hidden, state = rows(34, dtype), rows(50, seed=2)
    at = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:channels].to(DEVICE)
    pending, affine = random(50, 2), random(channels, 2, seed=3)
    kept = rows(channels), rows(channels)
    logdet = channel_major(logdet_tiles(channels, TOKENS, dtype), TOKENS, state)
    before = state.double()
    coupling_product(weight, bias, (hidden[:17], hidden[17:]), state, at.int(), pending, affine, logdet, CLAMPING, kept)
    w, h = weight.double(), hidden.double()
    s = (w[:channels] @ h[:17] + bias.double()[:channels, None]).requires_grad_(True)
    t = (w[channels:] @ h[17:] + bias.double()[channels:, None]).requires_grad_(True)
    x2 = (before[at] * pending[at, :1].double() + pending[at, 1:].double()).requires_grad_(True)
    log_scale = CLAMPING.clamp * torch.tanh(CLAMPING.s_factor * s)
    y2 = (x2 * log_scale.exp() + CLAMPING.t_factor * t) * affine[:, :1].double() + affine[:, 1:].double()
    assert_near(state[at], y2.detach(), dtype)
    assert_near(logdet.sum(0), log_scale.detach().sum(0), dtype)
    assert_near(kept[0], s.detach(), dtype)
    assert_near(kept[1], x2.detach(), torch.float32)
    untouched = torch.ones(50, dtype=torch.bool, device=DEVICE).index_fill(0, at, False)
    assert torch.equal(state[untouched].double(), before[untouched])

    grad, dlogdet, dout = rows(50, seed=4), random(TOKENS), channel_major(42, TOKENS, state, dtype)
    above = grad[at].double()
    sums = partial_sums(42)
    tiles = coupling_backward(*kept, grad, at.int(), affine, dlogdet, dout, CLAMPING, sums)
    loss = (y2 * above).sum() + (log_scale.sum(0) * dlogdet.double()).sum()
    dx2, ds, dt = torch.autograd.grad(loss, (x2, s, t))
    assert_near(grad[at], dx2, dtype)
    assert_near(dout, torch.cat([ds, dt]), dtype)
    assert_near(sums[:tiles].sum(0), torch.cat([ds, dt]).sum(1), dtype)
