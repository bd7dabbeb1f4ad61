"""Distances to all prototypes in Triton, and a router that reads nothing from the device."""

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, gaussians, no_host_reads, on_triton, random
from launches import Launches

from moleflow_fast.kernels import mahalanobis as kernels
from moleflow_fast.models.routing import PrototypeRouter, TaskPrototype
from moleflow_fast.ops.mahalanobis import (
    mahalanobis_distances,
    mahalanobis_distances_reference,
    nearest_gaussians,
    stack_gaussians,
)


def assert_equal_to_definition(rows: torch.Tensor, means: Any, precisions: Any, rtol: float = 1e-5) -> None:
    actual = on_triton(mahalanobis_distances, rows, stack_gaussians(means, precisions))
    wide = [[t.double() for t in group] for group in (means, precisions)]
    expected = mahalanobis_distances_reference(rows.double(), *wide)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    ("images", "tasks", "dim"), [(1, 1, 1), (1, 3, 5), (2, 15, 40), (17, 2, 33), (70, 2, 65), (3, 2, 130)]
)
def test_equal_to_the_definition(images, tasks, dim, poisoned):
    assert_equal_to_definition(random(images, dim, seed=3), *gaussians(tasks, dim))


def test_a_triangle_in_one_block_as_on_a_gpu(monkeypatch, poisoned):
    from moleflow_fast.ops import mahalanobis as operation

    monkeypatch.setattr(operation, "_BLOCKS", 1)
    assert_equal_to_definition(random(5, 70, seed=3), *gaussians(3, 70))


def test_one_call_for_all_prototypes_of_a_block(monkeypatch):
    calls, plain = [], kernels._launch
    monkeypatch.setattr(kernels, "_launch", lambda *a: calls.append(a) or plain(*a))
    stack = stack_gaussians(*gaussians(6, 20))
    on_triton(mahalanobis_distances, random(3, 20), stack)
    assert len(calls) == len(stack.blocks)


def test_views_are_read_right():
    means, precisions = gaussians(2, 12)
    assert_equal_to_definition(random(12, 9).T[::2], means, precisions)


@pytest.mark.parametrize("kind", ["indefinite", "singular", "one of them", "skew"])
def test_precisions_without_a_factor(kind):
    means, precisions = gaussians(3, 23)
    if kind == "indefinite":
        precisions = [p - 0.3 * torch.eye(23, device=DEVICE) for p in precisions]
    elif kind == "singular":
        precisions = [torch.diag(torch.arange(23.0, device=DEVICE)) for _ in precisions]
    elif kind == "one of them":
        precisions[1] = torch.zeros_like(precisions[1])
    else:
        precisions = [p + torch.triu(p, 1) - torch.tril(p, -1) for p in precisions]
    rows, stack = random(6, 23), stack_gaussians(means, precisions)
    assert stack.factored == (kind == "skew")
    wide = [[t.double() for t in group] for group in (means, precisions)]
    expected = mahalanobis_distances_reference(rows.double(), *wide)
    actual = on_triton(mahalanobis_distances, rows, stack).double()
    # Of indefinite ones the square is a difference, and its rounding is that of its parts.
    torch.testing.assert_close(actual**2, expected**2, rtol=1e-5, atol=1e-4 if kind == "indefinite" else 0)


def test_broken_values_stay_in_their_row_and_column():
    means, precisions = gaussians(3, 40)
    rows = random(5, 40)
    expected = on_triton(mahalanobis_distances, rows, stack_gaussians(means, precisions))
    rows[1, 3], rows[2, 39] = torch.nan, torch.inf
    means[2] = torch.full_like(means[2], torch.nan)
    actual = on_triton(mahalanobis_distances, rows, stack_gaussians(means, precisions))
    assert not actual[[1, 2]].isfinite().any() and actual[:, 2].isnan().all()
    assert torch.equal(actual[[0, 3, 4], :2], expected[[0, 3, 4], :2])


def test_a_negative_square_is_a_distance_of_zero():
    stack = stack_gaussians([torch.zeros(3, device=DEVICE)], [-torch.eye(3, device=DEVICE)])
    distances = on_triton(mahalanobis_distances, torch.ones(1, 3, device=DEVICE), stack)
    assert torch.equal(distances, torch.zeros_like(distances))


def test_no_images_and_same_bits_twice():
    stack, rows = stack_gaussians(*gaussians(2, 9)), random(4, 9)
    assert on_triton(mahalanobis_distances, rows[:0], stack).shape == (0, 2)
    assert torch.equal(*(on_triton(mahalanobis_distances, rows, stack) for _ in range(2)))


def test_the_plain_path_takes_what_triton_does_not():
    means, precisions = gaussians(2, 9)
    stack, rows = stack_gaussians(means, precisions), random(4, 9).requires_grad_(True)
    on_triton(mahalanobis_distances, rows, stack).sum().backward()
    assert rows.grad.isfinite().all()
    wide = stack_gaussians([m.double() for m in means], [p.double() for p in precisions])
    assert on_triton(mahalanobis_distances, rows.detach(), wide).dtype == torch.float64


def router_of(tasks: int = 4, dim: int = 48, images: int = 80) -> PrototypeRouter:
    """Of more images than channels: which precisions have a factor does not hang on rounding."""
    router = PrototypeRouter(DEVICE)
    for task in range(tasks):
        prototype = TaskPrototype(10 * task, device=DEVICE)
        prototype.update(random(images, dim, seed=task) + random(dim, seed=50 + task))
        router.add_prototype(prototype)
    return router


@pytest.mark.parametrize("use_mahalanobis", [True, False])
def test_routes_without_a_host_read(use_mahalanobis):
    router, rows = router_of(), random(7, 48)
    router.use_mahalanobis = use_mahalanobis
    on_triton(router.route, rows)  # compiles, and lays the prototypes out
    with no_host_reads():
        first = on_triton(router.route, rows)
    expected = router.distances(rows).argmin(1).cpu() * 10
    assert torch.equal(first.cpu(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_prototypes_are_laid_out_without_a_host_read():
    means, precisions = gaussians(3, 48)
    stack_gaussians(means, precisions)  # the solver's own set-up may wait
    with no_host_reads():
        stack_gaussians(means, precisions)


def test_routes_to_the_prototype_that_the_definition_finds_nearest():
    router = router_of()
    parts = [[getattr(p, name).double() for p in router.prototypes.values()] for name in ("mean", "precision")]
    rows = random(40, 48, seed=9)
    distances = mahalanobis_distances_reference(rows.double(), *parts)
    torch.testing.assert_close(on_triton(router.distances, rows).double(), distances, rtol=1e-5, atol=0)
    assert torch.equal(on_triton(router.route, rows), 10 * distances.argmin(1))


def test_distances_and_nearest_in_two_launches():
    router, rows = router_of(), random(7, 48)
    on_triton(router.route, rows)  # lays the prototypes out
    with Launches() as launches:
        distances, ids = on_triton(router.distances_and_nearest, rows)
    assert launches.counts == {"_partial_squares": len(router._stack._built[1].blocks), "_nearest": 1}
    assert torch.equal(distances, on_triton(router.distances, rows))
    assert torch.equal(ids, 10 * distances.argmin(1))


def test_of_equals_the_first_is_nearest_and_nan_is_farthest():
    means, precisions = gaussians(3, 20)
    stack = stack_gaussians([means[0], means[1], means[1]], [precisions[0], precisions[1], precisions[1]])
    rows, ids = torch.cat([random(1, 20), means[1][None], means[0][None]]), torch.tensor([7, 5, 3], device=DEVICE)
    rows[0, 3] = torch.nan
    for take in (on_triton, lambda function, *given: function(*given)):
        distances, nearest = take(nearest_gaussians, rows, stack, ids)
        assert nearest.tolist() == [7, 5, 7] and distances[0].isnan().all()


def test_a_nan_distance_never_wins():
    router, rows = router_of(3), random(6, 48)
    router.prototypes[10].mean = torch.full_like(router.prototypes[10].mean, torch.nan)
    assert 10 not in on_triton(router.route, rows).tolist()


def test_ids_follow_the_prototypes():
    router, rows = router_of(3), random(6, 48)
    before = on_triton(router.route, rows)
    for task_id in (0, 10, 20):
        router.prototypes[task_id + 1] = router.prototypes.pop(task_id)
    assert torch.equal(on_triton(router.route, rows), before + 1)


def test_stacks_and_ids_stay_on_the_device():
    router, rows = router_of(3), random(6, 48)
    on_triton(router.route, rows)
    stack, ids = router._stack._built[1], router._ids[1]
    on_triton(router.route, rows)
    assert router._stack._built[1] is stack and router._ids[1] is ids
    assert {t.device.type for t in (stack.means, *stack.blocks, stack.factored, ids)} == {DEVICE}
