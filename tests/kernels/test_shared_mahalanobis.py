"""Distances to prototypes of one covariance in Triton, and a pooled router that reads nothing from the device."""

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, gaussians, no_host_reads, on_triton, random
from launches import Launches

from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.ops.mahalanobis import (
    SharedGaussians,
    mahalanobis_distances,
    mahalanobis_distances_reference,
    nearest_gaussians,
    share_gaussians,
)


def shared(tasks: int, dim: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Means, and a covariance in fp64."""
    means, precisions = gaussians(tasks, dim)
    return means, precisions[0].double().inverse()


def definition(rows: torch.Tensor, means: list[torch.Tensor], covariance: torch.Tensor) -> torch.Tensor:
    wide = [m.double() for m in means]
    return mahalanobis_distances_reference(rows.double(), wide, [covariance.inverse()] * len(wide))


@pytest.mark.parametrize(
    ("images", "tasks", "dim"),
    [(1, 1, 1), (1, 3, 5), (2, 15, 40), (17, 2, 33), (70, 2, 65), (3, 2, 130), (2, 300, 36)],
)
def test_equal_to_the_definition(images: int, tasks: int, dim: int, poisoned: Any) -> None:
    rows, (means, covariance) = random(images, dim, seed=90), shared(tasks, dim)
    distances, nearest = on_triton(
        nearest_gaussians, rows, share_gaussians(means, covariance), 7 * torch.arange(tasks, device=DEVICE)
    )
    expected = definition(rows, means, covariance)
    torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=0)
    assert torch.equal(nearest, 7 * expected.argmin(1))


def test_views_are_read_right() -> None:
    rows, (means, covariance) = random(12, 9).T[::2], shared(2, 12)
    actual = on_triton(mahalanobis_distances, rows, share_gaussians(means, covariance))
    torch.testing.assert_close(actual.double(), definition(rows, means, covariance), rtol=1e-5, atol=0)


def test_broken_values_stay_in_their_row_and_column() -> None:
    rows, (means, covariance) = random(5, 40), shared(3, 40)
    expected = on_triton(mahalanobis_distances, rows, share_gaussians(means, covariance))
    rows[1, 3], rows[2, 39] = torch.nan, torch.inf
    means[2] = torch.full_like(means[2], torch.nan)
    stack = share_gaussians(means, covariance)
    actual, nearest = on_triton(nearest_gaussians, rows, stack, torch.arange(3, device=DEVICE))
    assert not actual[[1, 2]].isfinite().any() and actual[:, 2].isnan().all() and 2 not in nearest.tolist()
    torch.testing.assert_close(actual[[0, 3, 4], :2], expected[[0, 3, 4], :2])


def test_of_equals_the_first_is_nearest() -> None:
    means, covariance = shared(2, 20)
    stack = share_gaussians([means[0], means[1], means[1]], covariance)
    rows, ids = torch.stack([means[1], means[0]]), torch.tensor([7, 5, 3], device=DEVICE)
    assert on_triton(nearest_gaussians, rows, stack, ids)[1].tolist() == [5, 7]


def test_no_images_and_same_bits_twice() -> None:
    stack, rows = share_gaussians(*shared(2, 9)), random(4, 9)
    assert on_triton(mahalanobis_distances, rows[:0], stack).shape == (0, 2)
    assert torch.equal(*(on_triton(mahalanobis_distances, rows, stack) for _ in range(2)))


def pooled_router(tasks: int = 4, dim: int = 48, images: int = 20) -> PrototypeRouter:
    router = PrototypeRouter(DEVICE, covariance="pooled")
    for task in range(tasks):
        prototype = router.new_prototype(10 * task)
        prototype.update(random(images, dim, seed=task) + random(dim, seed=50 + task))
        router.add_prototype(prototype)
    return router


def test_a_pooled_router_in_two_launches_without_a_host_read() -> None:
    router, rows = pooled_router(), random(7, 48)
    expected = router.distances(rows)
    on_triton(router.route, rows)  # compiles, and lays the prototypes out
    with Launches() as launches, no_host_reads():
        distances, ids = on_triton(router.distances_and_nearest, rows)
    assert launches.counts == {"_whitened_features": 1, "_nearest_whitened": 1}
    torch.testing.assert_close(distances, expected, rtol=1e-5, atol=0)
    assert torch.equal(ids, 10 * expected.argmin(1))


@pytest.mark.parametrize("change", ["nothing", "a task less", "a task more"])
def test_what_a_graph_reads_is_another_once_the_tasks_are(change: str) -> None:
    router, rows = pooled_router(), random(7, 48)
    router.route(rows)
    before = router.reads()
    if change == "a task less":
        del router.prototypes[30]
    elif change == "a task more":
        router.add_prototype(pooled_router(5).prototypes[40])
    after = router.reads()
    same = len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))
    assert same == (change == "nothing") and isinstance(after[0], SharedGaussians)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_prototypes_are_laid_out_without_a_host_read() -> None:
    pooled_router().gaussians()  # the solver's own set-up may wait
    router = pooled_router()
    with no_host_reads():
        router.gaussians()
