"""Densities and losses: parity with the published implementation, and the compiled part with the definition."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from density_losses import LOSSES
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.density import (
    density_loss,
    density_loss_reference,
    logdet_penalty,
    nll_loss,
    patch_nll,
    patch_nll_reference,
    tail_aware_loss,
)

ARRAYS = np.load(Path(__file__).parents[1] / "golden" / "losses_scores.npz", allow_pickle=False)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7), st.integers(1, 70))


def latent(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    logdet = 3 * torch.randn(shape[:-1], generator=generator, dtype=torch.float64)
    return z.to(dtype).requires_grad_(), logdet.to(dtype).requires_grad_()


def close(actual, expected, dtype):
    scale = expected.double().abs().max().clamp_min(1e-30)
    assert ((actual.double() - expected.double()).abs().max() / scale).item() < TOLERANCE[dtype]


def loss_and_gradients(function, z, logdet, options):
    loss = function(z, logdet, **options)
    return loss.detach(), *torch.autograd.grad(loss * 1.5, (z, logdet))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", ["nll", "logdet_reg", *(n for n in ARRAYS.files if n.startswith("tail/"))])
def test_golden(name: str, dtype: torch.dtype) -> None:
    z = torch.from_numpy(ARRAYS["z"]).to(dtype)
    logdet = torch.from_numpy(ARRAYS["logdet"]).to(dtype)
    if name == "nll":
        actual = density_loss(z, logdet, **LOSSES["plain"]), nll_loss(patch_nll(z, logdet))
    elif name == "logdet_reg":
        penalised = density_loss(z, logdet, tail_weight=None, tail_top_k_ratio=1, lambda_logdet=1e6)
        actual = (penalised - density_loss(z, logdet, **LOSSES["plain"])) / 1e6, logdet_penalty(logdet)
    else:
        weight, ratio = map(float, name.split("/")[1:])
        tail = density_loss(z, logdet, tail_weight=weight, tail_top_k_ratio=ratio, lambda_logdet=0)
        actual = tail, tail_aware_loss(patch_nll(z, logdet), weight, ratio)
    for value in actual:
        assert math.isclose(value.item(), ARRAYS[name].item(), rel_tol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@given(shape=SHAPES, seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_patch_nll_equals_its_definition(dtype, shape, seed):
    z, logdet = latent(shape, dtype, seed)
    nll = patch_nll(z, logdet)
    grad = torch.randn(shape[:-1], dtype=dtype)
    actual = nll.detach(), *torch.autograd.grad(nll, (z, logdet), grad)
    wide = z.detach().double().requires_grad_(), logdet.detach().double().requires_grad_()
    nll = patch_nll_reference(*wide)
    expected = nll.detach(), *torch.autograd.grad(nll, wide, grad.double())
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        close(a, e, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@given(shape=SHAPES, options=st.sampled_from(sorted(LOSSES)), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_density_loss_equals_its_definition(dtype, shape, options, seed):
    z, logdet = latent(shape, dtype, seed)
    actual = loss_and_gradients(density_loss, z, logdet, LOSSES[options])
    wide = z.detach().double().requires_grad_(), logdet.detach().double().requires_grad_()
    expected = loss_and_gradients(density_loss_reference, *wide, LOSSES[options])
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        close(a, e, dtype)


def test_fp32_sums_do_not_drift():
    z, logdet = latent((8, 28, 28, 768), torch.float32)
    expected = density_loss_reference(z.double(), logdet.double(), **LOSSES["plain"])
    assert math.isclose(density_loss(z, logdet, **LOSSES["plain"]).item(), expected.item(), rel_tol=1e-7)
    torch.testing.assert_close(
        patch_nll(z, logdet).double(), patch_nll_reference(z.double(), logdet.double()), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_views_are_read_right(options):
    z, logdet = latent((6, 5, 4, 7), torch.float64)
    z, logdet = z.detach().permute(2, 0, 3, 1)[::2], logdet.detach().permute(2, 0, 1)[::2]
    z, logdet = z.transpose(2, 3)[:, :, :, ::2].requires_grad_(), logdet.requires_grad_()
    actual = loss_and_gradients(density_loss, z, logdet, options)
    expected = loss_and_gradients(density_loss_reference, z, logdet, options)
    for a, e in zip(actual, expected, strict=True):
        close(a, e, torch.float64)
    close(patch_nll(z, logdet), patch_nll_reference(z, logdet), torch.float64)


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("where", ["z", "logdet"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_one_broken_value_makes_the_loss_not_finite(backend, value, where, options):
    z, logdet = (t.detach() for t in latent((2, 3, 4, 5), torch.float32))
    (z[1, 2, 3] if where == "z" else logdet[1, 2]).view(-1)[-1] = value
    with use_backend(backend):
        assert not density_loss(z, logdet, **options).isfinite()
        nll = patch_nll(z, logdet)
    torch.testing.assert_close(nll, patch_nll_reference(z, logdet), equal_nan=True)


def test_overflow_in_fp32_makes_the_loss_not_finite():
    z, logdet = torch.full((1, 2, 2, 3), 1e25), torch.zeros(1, 2, 2)
    assert not density_loss(z, logdet, **LOSSES["tail"]).isfinite()


def test_ties_at_the_boundary_count_once_each():
    z, logdet = torch.ones(2, 3, 3, 4, requires_grad=True), torch.zeros(2, 3, 3, requires_grad=True)
    options = {"tail_weight": 0.5, "tail_top_k_ratio": 0.35, "lambda_logdet": 0.0}  # k = 3 of 9
    loss, dz, dlogdet = loss_and_gradients(density_loss, z, logdet, options)
    torch.testing.assert_close(loss, patch_nll(z, logdet).mean().detach())
    in_tail = dlogdet < dlogdet.max() - 1e-3
    assert in_tail.flatten(1).sum(1).tolist() == [3, 3]
    torch.testing.assert_close(dz, -dlogdet[..., None].expand_as(dz))
    assert torch.equal(dlogdet, loss_and_gradients(density_loss, z, logdet, options)[2])


def test_tail_of_a_single_patch_is_that_patch():
    z, logdet = latent((4, 1, 1, 6), torch.float64)
    actual = density_loss(z, logdet, tail_weight=0.3, tail_top_k_ratio=0.05, lambda_logdet=0)
    torch.testing.assert_close(actual, patch_nll(z, logdet).mean())


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_thread_counts_agree_to_the_bit(options):
    z, logdet = latent((3, 9, 11, 33), torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(loss_and_gradients(density_loss, z, logdet, options))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_gradients_in_fp64():
    z, logdet = latent((2, 2, 3, 5), torch.float64)
    assert torch.autograd.gradcheck(patch_nll, (z, logdet))
    for options in LOSSES.values():
        assert torch.autograd.gradcheck(lambda z, d, o=options: density_loss(z, d, **o), (z, logdet))


def test_only_the_gradients_asked_for():
    z, logdet = latent((2, 2, 3, 5), torch.float32)
    patch_nll(z.detach(), logdet).sum().backward()
    assert torch.equal(logdet.grad, -torch.ones(2, 2, 3))
    density_loss(z, logdet.detach(), **LOSSES["plain"]).backward()
    torch.testing.assert_close(z.grad, z.detach() / 2)
    assert not density_loss(z.detach(), logdet.detach(), **LOSSES["plain"]).requires_grad


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
def test_opcheck(dtype):
    z, logdet = latent((2, 3, 2, 5), dtype)
    torch.library.opcheck(torch.ops.moleflow.patch_nll.default, (z, logdet))
    torch.library.opcheck(torch.ops.moleflow.patch_nll_backward.default, (logdet.detach(), z.detach()))
    torch.library.opcheck(torch.ops.moleflow.density_loss.default, (z, logdet, 2, 0.3, 0.1))
    torch.library.opcheck(
        torch.ops.moleflow.density_loss_backward.default,
        (torch.ones((), dtype=dtype), logdet.detach(), z.detach(), logdet.detach(), 0.1),
    )


def test_compiles_without_a_graph_break():
    z, logdet = latent((2, 3, 2, 5), torch.float64)
    compiled = torch.compile(lambda z, d: density_loss(z, d, **LOSSES["tail"]), fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(z, logdet), (z, logdet))
    expected = torch.autograd.grad(density_loss_reference(z, logdet, **LOSSES["tail"]), (z, logdet))
    for a, e in zip(actual, expected, strict=True):
        close(a, e, torch.float64)


def test_half_precision_takes_the_plain_path():
    z, logdet = latent((1, 2, 2, 3), torch.bfloat16)
    assert density_loss(z, logdet, **LOSSES["tail"]).dtype == torch.bfloat16
    assert patch_nll(z[:0].float(), logdet[:0].float()).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("z_shape", "logdet_shape", "ratio"),
    [
        ((2, 3, 4), (2, 3), 0.1),
        ((1, 2, 3, 4), (1, 2, 2), 0.1),
        ((0, 2, 3, 4), (0, 2, 3), 0.1),
        ((1, 1, 1, 1), (1, 1, 1), 2),
    ],
)
def test_bad_input_is_an_error(z_shape, logdet_shape, ratio):
    with pytest.raises(ValueError, match="expected z|at least one patch|must be in"):
        density_loss(
            torch.zeros(z_shape), torch.zeros(logdet_shape), tail_weight=0.5, tail_top_k_ratio=ratio, lambda_logdet=0
        )
