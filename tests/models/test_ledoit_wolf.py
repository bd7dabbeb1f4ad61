"""Shrinkage from sums, against scikit-learn's from rows."""

import pytest
import torch
from sklearn.covariance import ledoit_wolf

from moleflow_fast.models.ledoit_wolf import LEAST_VARIANCE, Moments, shrunk_covariance, total


def rows(images: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    offset = 7 * torch.randn(dim, generator=generator, dtype=torch.float64)
    return torch.randn(images, dim, generator=generator, dtype=torch.float64) @ spread + offset


def moments(features: torch.Tensor) -> Moments:
    centred = features - features.mean(0)
    return Moments(centred.T @ centred, centred.square().sum(1).square().sum(), len(features), 1)


@pytest.mark.parametrize(("images", "dim"), [(3, 2), (4, 30), (30, 30), (200, 7), (5000, 3)])
def test_of_one_task(images: int, dim: int) -> None:
    features = rows(images, dim)
    expected = torch.from_numpy(ledoit_wolf(features.numpy())[0])
    torch.testing.assert_close(shrunk_covariance(moments(features)).covariance, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [(2, 3), (40, 1, 9), (20, 75, 300)])
def test_of_several_tasks(sizes: tuple[int, ...]) -> None:
    tasks = [rows(n, 16, seed) for seed, n in enumerate(sizes)]
    centred = torch.cat([t - t.mean(0) for t in tasks])
    expected, shrinkage = ledoit_wolf(centred.numpy(), assume_centered=True)
    shrunk = shrunk_covariance(total([moments(t) for t in tasks]))
    torch.testing.assert_close(shrunk.covariance, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    assert shrunk.weight == pytest.approx((1 - shrinkage) / sum(sizes))


@pytest.mark.parametrize("images", [1, 2])
def test_rows_that_show_no_directions(images: int) -> None:
    shrunk = shrunk_covariance(moments(rows(images, 5)))
    assert torch.equal(shrunk.covariance, shrunk.covariance[0, 0] * torch.eye(5, dtype=torch.float64))
    assert shrunk.covariance[0, 0] >= LEAST_VARIANCE and shrunk.weight == 0


def test_nothing_varies() -> None:
    shrunk = shrunk_covariance(moments(torch.full((9, 4), 3.25, dtype=torch.float64)))
    assert torch.equal(shrunk.covariance, LEAST_VARIANCE * torch.eye(4, dtype=torch.float64))


def test_constant_channels_and_rows_on_a_line() -> None:
    features = rows(12, 6)
    features[:, 2:4] = 5
    # Of rows on a line, as far on one side as on the other, the rule shrinks nothing.
    line = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64) * rows(1, 6)
    for taken in (features, line):
        assert torch.linalg.eigvalsh(shrunk_covariance(moments(taken)).covariance)[0] > 0
