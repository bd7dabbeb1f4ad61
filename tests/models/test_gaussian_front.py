"""The Gaussian front against its formula in numpy, fp64: maps, inverse, log-determinant, few and odd images."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from moleflow_fast.config import AblationConfig
from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

H, W = 3, 5


def patches(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated channels, another mean and another spread at every position, (n, H, W, d)."""
    torch.manual_seed(seed)
    mix = torch.randn(d, d) / d**0.5 + torch.eye(d)
    spread = 0.2 + torch.rand(H, W, d)
    return 2 * torch.randn(H, W, d) + (spread * torch.randn(n, H, W, d)) @ mix


def fitted(x: Tensor, k: int, batch: int = 4) -> GaussianFront:
    front = GaussianFront(x.shape[-1], k)
    front.fit(lambda: x.split(batch))
    return front


def expected(x: np.ndarray, at: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """w and log-determinants of patches `at`, for a front fitted on `x`; both (n, H, W, D), fp64."""
    n, _, _, d = x.shape
    mean = x.mean(0)
    residuals = (x - mean).reshape(-1, d)
    within = residuals.T @ residuals / ((n - 1) * H * W)
    everything = np.cov(x.reshape(-1, d).T, bias=True)
    covariance = within + (everything - within) / n**2
    covariance += 1e-5 * np.trace(covariance) / d * np.eye(d)
    whitener = np.linalg.inv(np.linalg.cholesky(covariance))
    y, white = (x - mean) @ whitener.T, (at - mean) @ whitener.T
    out, logdet = np.empty_like(white), np.empty(white.shape[1:3])
    a = d / (n + d)
    for h in range(H):
        for w in range(W):
            shrunk = (1 - a) * y[:, h, w].T @ y[:, h, w] / (n - 1) + a * np.eye(d)
            values, vectors = np.linalg.eigh(shrunk)
            if k < d:
                values[: d - k] = values[: d - k].mean()
            root = vectors @ np.diag(values**-0.5) @ vectors.T
            out[:, h, w] = white[:, h, w] @ root
            logdet[h, w] = np.linalg.slogdet(root @ whitener)[1]
    return out, logdet


@pytest.mark.parametrize(("n", "d", "k"), [(40, 12, 4), (40, 12, 12), (9, 12, 4), (40, 13, 1), (30, 7, 32)])
def test_the_map_and_its_logdet(n: int, d: int, k: int) -> None:
    x, other = patches(n, d), patches(6, d, seed=1)
    front = fitted(x, k)
    w, logdet = expected(x.double().numpy(), other.double().numpy(), min(k, d))
    assert front(other).numpy() == pytest.approx(w, rel=1e-3, abs=2e-4)
    assert front.logdet().numpy() == pytest.approx(logdet, abs=1e-4)


def test_no_directions_leave_one_covariance() -> None:
    x = patches(300, 8)
    front = fitted(x, 0)
    white = front(x)
    covariance = torch.einsum("nhwc,nhwd->cd", white, white) / (299 * H * W)
    assert torch.allclose(covariance, torch.eye(8), atol=0.1)
    assert front.directions.numel() == 0 and torch.equal(front.scale, torch.ones(H, W))


@pytest.mark.parametrize("n", [1, 2, 8, 40])
@pytest.mark.parametrize("k", [0, 3])
def test_inverse_and_jacobian_in_double(n: int, k: int) -> None:
    front = fitted(patches(n, 6), k).double()
    x = patches(2, 6, seed=2).double()
    assert torch.allclose(front.inverse(front(x)), x, rtol=1e-9, atol=1e-9)
    position = torch.zeros(1, H, W, 6, dtype=torch.float64)

    def at(row: Tensor) -> Tensor:
        return front(position.index_put((torch.tensor(0), torch.tensor(1), torch.tensor(2)), row))[0, 1, 2]

    jacobian = torch.autograd.functional.jacobian(at, x[0, 1, 2])
    assert torch.linalg.slogdet(jacobian).logabsdet == pytest.approx(float(front.logdet()[1, 2]), abs=1e-9)


def test_the_order_of_images_is_no_matter() -> None:
    x = patches(30, 10)
    front, other = fitted(x, 4), fitted(x[torch.randperm(30)], 4, batch=7)
    assert torch.allclose(front(x), other(x), atol=1e-4)
    assert torch.equal(front.mean, other.mean) and torch.allclose(front.whitener, other.whitener, rtol=1e-6)


def test_positions_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = patches(12, 6)
    whole = fitted(x, 3)
    monkeypatch.setattr("moleflow_fast.models.gaussian_front._HELD_BYTES", 12 * W * 6 * 4)  # one row of positions
    assert torch.allclose(whole(x), fitted(x, 3)(x), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_few_images_with_dead_channels_and_positions(n: int) -> None:
    x = patches(n, 16)
    x[..., 3] = 1.5
    x[:, 1, 1] = 0.0
    front = fitted(x, 5)
    seen, unseen = front(x), front(patches(4, 16, seed=3))
    assert bool(seen.isfinite().all()) and bool(unseen.isfinite().all()) and bool(front.logdet().isfinite().all())
    assert float(unseen.square().sum()) > float(seen.square().sum())


def test_images_without_any_variation() -> None:
    x = torch.full((3, H, W, 4), 0.7)
    front = fitted(x, 2)
    assert torch.equal(front(x), torch.zeros_like(x)) and bool(front(x + 1).isfinite().all())


def test_errors_name_the_remedy() -> None:
    front = GaussianFront(4)
    with pytest.raises(ValueError, match="never fitted: train its task first"):
        front(torch.randn(1, H, W, 4))
    with pytest.raises(ValueError, match="at least one image"):
        front.fit(lambda: iter(()))
    with pytest.raises(ValueError, match="not finite"):
        front.fit(lambda: [torch.full((2, H, W, 4), torch.nan)])
    with pytest.raises(ValueError, match="fitted on 3 x 5 patches and is given 5 x 3"):
        fitted(patches(4, 4), 2)(torch.randn(1, W, H, 4))


def test_a_model_with_fronts_is_its_own_inverse_and_density() -> None:
    config = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False, front_directions=3)
    model = MoLESpatialAwareNF(8, coupling_layers=2, lora_rank=2, ablation_config=config).double()
    x = patches(9, 8).double()
    for task_id in (0, 1):
        model.add_task(task_id)
        front = model.front(task_id)
        assert front is not None and model.spatial_mixer is None
        front.fit(lambda task_id=task_id: (task_id + x).split(4))
    z, logdet = model(x)
    assert torch.allclose(z.square().sum(-1), model.front(1)(x).square().sum(-1))  # couplings begin as the identity
    assert torch.allclose(logdet, model.front(1).logdet().expand(9, H, W), atol=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    z, logdet = model(x)
    back, inverse_logdet = model(z, reverse=True)
    assert torch.allclose(back, x, atol=1e-8) and torch.allclose(inverse_logdet, -logdet, atol=1e-8)
    constant = model.front(1).logdet()
    assert torch.allclose(-model.log_prob_patch(x), model.nll_as(1, x) - constant, atol=1e-9)
    loaded = MoLESpatialAwareNF(8, coupling_layers=2, lora_rank=2, ablation_config=config).double()
    loaded.load_state_dict(model.state_dict())
    loaded.set_active_task(1)
    assert all(torch.equal(a, b) for a, b in zip(loaded(x), (z, logdet), strict=True))
    assert torch.equal(copy.deepcopy(model)(x)[0], z)
