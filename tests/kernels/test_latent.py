"""The loss on the flow's last state beside the loss on z; the padding and fresh memory are full of NaN."""

from typing import Any

import pytest
import torch
from density_losses import LOSSES
from kernel_checks import DEVICE, random
from torch import Tensor

from moleflow_fast.backend import use_backend
from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.density import loss_of_patches
from moleflow_fast.kernels.latent import state_gradient, state_nll
from moleflow_fast.ops.density import density_loss, patch_nll

pytestmark = pytest.mark.usefixtures("poisoned")
LOG_SCALES = -0.3  # the part of the log-determinant that no token changes
# images, H, W, channels, tiles of the log-determinant
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 7, 5, 3), (1, 1, 17, 65, 2), (2, 14, 11, 130, 17), (2, 3, 4, 9, 0)]


def padded(rows: int, tokens: int, seed: int) -> Tensor:
    out = channel_major(rows, tokens, torch.empty(0, device=DEVICE))
    return out.copy_(random(rows, tokens, seed=seed)) if rows else out


def state(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """State (D, N), pending (D, 2), tiles (T, N), and z (B, H, W, D) with the state's order of channels, in fp64."""
    *grid, channels, tiles = shape
    tokens = grid[0] * grid[1] * grid[2]
    rows, pending = padded(channels, tokens, 0), random(channels, 2)
    z = (rows.double() * pending[:, :1].double() + pending[:, 1:].double()).t().reshape(*grid, channels)
    return rows, pending, padded(tiles, tokens, 1), z


def nll_and_logdet(rows: Tensor, pending: Tensor, tiles: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    nll, logdet = (torch.full(grid, torch.nan, device=DEVICE) for _ in range(2))
    state_nll(rows, pending, tiles, torch.tensor(LOG_SCALES, device=DEVICE), nll, logdet)
    return nll, logdet


@pytest.mark.parametrize("shape", SHAPES)
def test_nll_of_a_state(shape: tuple[int, ...]) -> None:
    rows, pending, tiles, z = state(shape)
    nll, logdet = nll_and_logdet(rows, pending, tiles, shape[:3])
    expected = tiles.double().sum(0).view(shape[:3]) + LOG_SCALES
    torch.testing.assert_close(logdet.double(), expected, rtol=2e-6, atol=2e-6)
    with use_backend("eager"):
        exact = patch_nll(z, expected)
    torch.testing.assert_close(nll.double(), exact, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_loss_and_its_gradient(options: dict[str, Any], shape: tuple[int, ...], in_place: bool) -> None:
    rows, pending, tiles, z = state(shape)
    nll, logdet = nll_and_logdet(rows, pending, tiles, shape[:3])
    determinants = tiles.double().sum(0).view(shape[:3]) + LOG_SCALES
    leaves = z.requires_grad_(True), determinants.requires_grad_(True)
    with use_backend("eager"):
        expected = density_loss(*leaves, **options)
    share, penalty = options["tail_weight"], options["lambda_logdet"]
    tail = 0 if share is None else max(1, int(nll[0].numel() * options["tail_top_k_ratio"]))
    loss, weights = loss_of_patches(nll, logdet, tail, share or 0.0, penalty)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=5e-6, atol=5e-6)

    grad = rows if in_place else channel_major(*rows.shape, rows)
    dlogdet, dloss = torch.full_like(nll, torch.nan), torch.tensor(1.7, device=DEVICE)
    state_gradient(dloss, weights, rows, pending, logdet, penalty, grad, dlogdet)
    dz, exact = torch.autograd.grad(1.7 * expected, leaves)
    torch.testing.assert_close(grad.double(), dz.flatten(0, 2).t(), rtol=5e-6, atol=5e-6)
    torch.testing.assert_close(dlogdet.double(), exact, rtol=5e-6, atol=5e-6)


def test_the_same_bits_twice() -> None:
    rows, pending, tiles, _ = state((2, 14, 11, 130, 17))
    first, second = (nll_and_logdet(rows, pending, tiles, (2, 14, 11)) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_a_broken_token_breaks_itself_alone() -> None:
    rows, pending, tiles, _ = state((2, 3, 7, 5, 3))
    rows[2, 30] = torch.nan
    nll, _ = nll_and_logdet(rows, pending, tiles, (2, 3, 7))
    assert nll.view(-1)[30].isnan() and nll.isnan().sum() == 1
