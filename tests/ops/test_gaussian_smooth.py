"""Gaussian smoothing against scipy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.gaussian_smooth import gaussian_smooth, gaussian_smooth_reference

TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}


def maps(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def scipy_smooth(values, sigma):
    return np.stack([gaussian_filter(one, sigma) for one in values.double().numpy()])


@pytest.mark.parametrize("smooth", [gaussian_smooth, gaussian_smooth_reference])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sigma", [0.12, 0.125, 0.3, 1.0, 4.0, 11.5])  # radius 0, and 1 from 0.125 on
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 1, 40), (1, 65, 33), (2, 224, 224)])
def test_equal_to_scipy(shape, sigma, dtype, smooth):
    values = maps(shape, dtype)
    expected = scipy_smooth(values, sigma)
    np.testing.assert_allclose(smooth(values, sigma).numpy(), expected, rtol=0, atol=TOLERANCE[dtype])


def test_input_is_left_alone_and_views_are_read_right():
    whole = maps((4, 40, 30), torch.float32)
    before = whole.clone()
    view = whole.transpose(1, 2)[::2]
    torch.testing.assert_close(gaussian_smooth(view, 4.0), gaussian_smooth(view.contiguous(), 4.0), rtol=0, atol=0)
    assert torch.equal(whole, before)


def test_a_constant_map_stays_and_sigma_zero_changes_nothing():
    constant = torch.full((1, 50, 20), 7.25)
    torch.testing.assert_close(gaussian_smooth(constant, 4.0), constant, rtol=1e-6, atol=0)
    values = maps((2, 4, 4))
    assert torch.equal(gaussian_smooth(values, 0.0), values)
    assert gaussian_smooth(values[:0], 4.0).shape == (0, 4, 4)


def test_half_precision_takes_the_plain_path():
    values = maps((1, 20, 20)).bfloat16()
    assert gaussian_smooth(values, 2.0).dtype == torch.bfloat16


def test_the_plain_path_runs_where_it_is_asked_for_or_a_gradient_is_wanted():
    values = maps((2, 9, 7))
    with use_backend("eager"):
        assert torch.equal(gaussian_smooth(values, 2.0), gaussian_smooth_reference(values, 2.0))
    values.requires_grad_()
    gaussian_smooth(values, 2.0).sum().backward()
    torch.testing.assert_close(values.grad.sum(), torch.tensor(126.0, dtype=torch.float64))


def test_infinity_spreads_only_as_far_as_the_kernel_reaches():
    values = torch.zeros(1, 64, 64)
    values[0, 0, 0] = torch.inf
    smoothed = gaussian_smooth(values, 1.0)  # radius 4
    assert smoothed[0, 0, 0] == torch.inf
    assert torch.equal(smoothed[0, 10:, 10:], torch.zeros(54, 54))


@pytest.mark.parametrize(("shape", "sigma"), [((2, 3), 1.0), ((1, 2, 3), -1.0), ((1, 2, 3), float("nan"))])
def test_bad_input_is_an_error(shape, sigma):
    with pytest.raises(ValueError, match="maps must be|sigma must be"):
        gaussian_smooth(torch.zeros(shape), sigma)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("sigma", [0.3, 4.0])
def test_plain_pytorch_on_a_gpu_equals_scipy(sigma):
    values = maps((1, 224, 320), torch.float32)
    smooth = gaussian_smooth(values.cuda(), sigma).cpu().numpy()
    np.testing.assert_allclose(smooth, scipy_smooth(values, sigma), rtol=0, atol=TOLERANCE[torch.float32])
