"""exp and tanh of the compiled part to the accuracy that csrc/cpu/elementary.h states, seen through the coupling."""

import math

import pytest
import torch
from op_checks import coupled as coupled_rows
from op_checks import coupled_gradients
from torch import Tensor

from moleflow_fast.ops.coupling import Clamping

BOUND = {torch.float32: (2e-7, 3e-7), torch.float64: (1e-15, 1e-15)}  # relative, of exp and of tanh


def coupled(s: Tensor, clamp: float, s_factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """exp(log-scale), and log-scale = clamp * tanh(s_factor * s) where a row of s has one value."""
    return coupled_rows(s, torch.zeros_like(s), (None, None), torch.ones_like(s), Clamping(clamp, s_factor, 1.0))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual.double() - expected) / expected).abs().max())


@pytest.mark.parametrize("dtype", BOUND)
def test_exp_of_what_it_is_given(dtype: torch.dtype) -> None:
    s = torch.linspace(-8, 8, 20_001, dtype=dtype)[:, None]
    for clamp in (1e-3, 1.0, 87.0):
        exponential, log_scale = coupled(s, clamp)
        assert relative_error(exponential[:, 0], log_scale.double().exp()) < BOUND[dtype][0]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("width", [1, 8, 37])
def test_exp_in_every_lane(width: int, dtype: torch.dtype) -> None:
    s = torch.full((2, width), 50.0, dtype=dtype)  # its tanh is 1
    s[1] = -50
    for step in range(1, 88):
        clamp = float(torch.tensor(step * 0.997, dtype=dtype))
        exponential, _ = coupled(s, clamp)
        expected = torch.tensor([[clamp], [-clamp]], dtype=torch.float64).exp().expand(2, width)
        assert relative_error(exponential, expected) < BOUND[dtype][0]


def test_exp_beyond_its_range_stays_finite_and_positive() -> None:
    s = torch.tensor([[50.0], [-50.0]])
    for clamp in (88.5, 200.0, 3e38):
        exponential, _ = coupled(s, clamp)
        expected = torch.tensor([[88.0], [-87.0]], dtype=torch.float64).exp()
        assert relative_error(exponential, expected) < BOUND[torch.float32][0]


@pytest.mark.parametrize("dtype", BOUND)
def test_tanh(dtype: torch.dtype) -> None:
    large = torch.logspace(-3, 2, 20_001, dtype=dtype)
    joint = torch.linspace(0.6249, 0.6251, 2001, dtype=dtype)  # where one formula takes over from the other
    small = torch.logspace(-37, -3, 2001, dtype=dtype)
    s = torch.cat([large, joint, small])
    for signed in (s, -s):
        _, tangent = coupled(signed[:, None], 1.0)
        assert relative_error(tangent, signed.double().tanh()) < BOUND[dtype][1]


@pytest.mark.parametrize("dtype", BOUND)
def test_tanh_of_zero_and_of_what_is_not_finite(dtype: torch.dtype) -> None:
    s = torch.tensor([0.0, math.inf, -math.inf, math.nan], dtype=dtype)
    exponential, tangent = coupled(s[:, None], 1.0)
    assert tangent[:3].tolist() == [0, 1, -1] and tangent[3].isnan()
    assert exponential[:3].isfinite().all() and exponential[3].isnan()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize(("clamp", "s_factor"), [(1.9, 0.1), (1.9, 1 / 1.9), (5.0, 1.0)])
def test_slope_of_the_log_scale(clamp: float, s_factor: float, dtype: torch.dtype, bound: float) -> None:
    s = torch.linspace(-40, 40, 4001, dtype=dtype)[:, None]
    dy2, dlogdet = torch.zeros_like(s), torch.ones_like(s[:, 0])
    _, ds, *_ = coupled_gradients(s, None, torch.ones_like(s), dy2, dlogdet, Clamping(clamp, s_factor, 1.0))
    expected = clamp * s_factor * (1 - (s_factor * s.double()).tanh() ** 2)
    torch.testing.assert_close(ds.double(), expected, rtol=0, atol=bound * clamp * s_factor)
