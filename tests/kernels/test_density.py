import pytest
import torch
from density_losses import LOSSES
from kernel_checks import DEVICE, assert_near_definition, assert_same_bits_twice, on_triton, random

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.density import density_loss, patch_nll, patch_nll_reference

SHAPES = [(1, 1, 1, 1), (1, 1, 1, 37), (2, 1, 5, 3), (3, 5, 7, 37), (2, 4, 4, 16), (1, 9, 13, 2)]


def latent(shape: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    return [random(*shape, seed=seed), 3 * random(*shape[:-1], seed=seed)]


def in_tail(nll: torch.Tensor, ratio: float) -> torch.Tensor:
    """Which patches of z = 0 and logdet = -`nll` (B, H, W) are in the tail, as the weights of the loss say."""
    z = torch.zeros(*nll.shape, 1, device=DEVICE)
    options = (max(1, int(nll[0].numel() * ratio)), 1.0, 0.0)
    return on_triton(torch.ops.moleflow.density_loss, z, -nll.to(DEVICE), *options)[1] > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_patch_nll_equals_its_definition(shape, poisoned):
    assert_near_definition(patch_nll, latent(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_density_loss_equals_its_definition(options, shape, poisoned):
    assert_near_definition(lambda z, d: density_loss(z, d, **options), latent(shape))


def test_views_and_an_image_of_more_than_a_block(poisoned):
    z, logdet = random(1, 3, 50, 46)[..., ::2].transpose(1, 2), random(1, 3, 50).transpose(1, 2)
    assert_near_definition(patch_nll, [z, logdet])
    assert_near_definition(lambda z, d: density_loss(z, d, **LOSSES["tail"]), latent((1, 43, 50, 2)))


@pytest.mark.parametrize("k", [1, 2, 10, 34, 35])
def test_the_tail_is_the_k_largest(k):
    nll = random(3, 5, 7).cpu() * torch.tensor([1e-3, 1.0, 1e30])[:, None, None]
    expected = torch.zeros(3, 35).scatter(1, nll.flatten(1).topk(k).indices, 1.0) > 0
    assert torch.equal(in_tail(nll, k / 35 + 1e-9).flatten(1).cpu(), expected)


@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("value", [-2.5, 0.0, torch.inf, -torch.inf, torch.nan])
def test_of_equals_the_first_are_chosen(value, k):
    chosen = in_tail(torch.full((2, 3, 4), value), k / 12 + 1e-9).flatten(1)
    assert chosen[:, :k].all() and not chosen[:, k:].any()


def test_ties_at_the_boundary():
    nll = torch.tensor([[3.0, 1.0, 2.0, 2.0, 5.0, 2.0, 2.0, -1.0]])[None]
    assert in_tail(nll, 0.5).flatten().nonzero().flatten().tolist() == [0, 2, 3, 4]


def test_ties_in_later_blocks():
    nll = torch.zeros(1, 43, 50)
    nll.view(-1)[[7, 2100]] = 1.0
    chosen = in_tail(nll, 2080 / 2150 + 1e-9).flatten()
    assert chosen.sum() == 2080 and chosen[:2079].all() and chosen[2100]


def test_ranks_run_from_minus_infinity_to_not_a_number():
    nll = torch.tensor([[-torch.inf, -0.5, 0.5, -3.0, -torch.nan, torch.nan, 2.0, torch.inf, -1e38]])[None]
    order = [4, 5, 7, 6, 2, 1, 3, 8, 0]
    for k in range(1, 10):
        assert set(in_tail(nll, k / 9 + 1e-9 * (k < 9)).flatten().nonzero().flatten().tolist()) == set(order[:k])


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("where", ["z", "logdet"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_broken_value_makes_the_loss_not_finite(value, where, options):
    z, logdet = latent((2, 3, 4, 5))
    (z[1, 2, 3] if where == "z" else logdet[1, 2]).view(-1)[-1] = value
    assert not on_triton(density_loss, z, logdet, **options).isfinite()
    torch.testing.assert_close(on_triton(patch_nll, z, logdet), patch_nll_reference(z, logdet), equal_nan=True)


def test_overflow_makes_the_loss_not_finite():
    z, logdet = torch.full((1, 2, 2, 3), 1e25, device=DEVICE), torch.zeros(1, 2, 2, device=DEVICE)
    assert not on_triton(density_loss, z, logdet, **LOSSES["tail"]).isfinite()


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_same_bits_twice(options):
    assert_same_bits_twice(lambda z, d: density_loss(z, d, **options), latent((3, 5, 7, 37)))
    assert_same_bits_twice(patch_nll, latent((3, 5, 7, 37)))


def test_the_plain_path_takes_what_triton_does_not():
    z, logdet = (t.double() for t in latent((2, 3, 2, 5)))
    assert on_triton(density_loss, z, logdet, **LOSSES["tail"]).dtype == torch.float64
    assert on_triton(patch_nll, z[:0].float(), logdet[:0].float()).shape == (0, 3, 2)


def test_operator_contract():
    z, logdet = (t.requires_grad_(True) for t in latent((2, 2, 3, 5)))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    with use_backend("triton"):
        torch.library.opcheck(torch.ops.moleflow.patch_nll, (z, logdet), test_utils=checks)
        torch.library.opcheck(torch.ops.moleflow.density_loss, (z, logdet, 2, 0.3, 0.1), test_utils=checks)
