"""Distances to all prototypes at once, and a router whose stacked prototypes are never stale."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_fast.models.routing import PrototypeRouter, TaskPrototype
from moleflow_fast.ops import mahalanobis
from moleflow_fast.ops.mahalanobis import (
    mahalanobis_distances,
    mahalanobis_distances_reference,
    share_gaussians,
    stack_gaussians,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def gaussians(tasks, dim, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(tasks, dim, generator=generator, dtype=torch.float64)
    roots = torch.randn(tasks, dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    precisions = roots @ roots.mT + 0.1 * torch.eye(dim, dtype=torch.float64)
    return list(means.to(dtype)), list(precisions.to(dtype))


def features(n, dim, dtype=torch.float64, seed=1):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@given(n=st.integers(0, 9), dim=st.integers(1, 70), tasks=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_equals_the_definition(dtype, n, dim, tasks, seed):
    means, precisions = gaussians(tasks, dim, dtype, seed)
    rows = features(n, dim, dtype, seed + 1)
    wide = [[t.double() for t in group] for group in (means, precisions)]
    expected = mahalanobis_distances_reference(rows.double(), *wide)
    actual = mahalanobis_distances(rows, stack_gaussians(means, precisions))
    assert actual.shape == (n, tasks) and actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@given(n=st.integers(0, 9), dim=st.integers(1, 70), tasks=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_of_one_covariance_equals_the_definition(dtype, n, dim, tasks, seed):
    means, (precision, *_) = gaussians(tasks, dim, torch.float64, seed)
    rows, means = features(n, dim, dtype, seed + 1), [m.to(dtype) for m in means]
    expected = mahalanobis_distances_reference(rows.double(), [m.double() for m in means], [precision] * tasks)
    actual = mahalanobis_distances(rows, share_gaussians(means, precision.inverse()))
    assert actual.shape == (n, tasks) and actual.dtype == dtype
    rounding = 4 * torch.finfo(dtype).eps  # of whitened rows and means, of order 1, whose difference may be small
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=rounding)


def test_of_one_covariance_far_means_do_not_cancel():
    means, (precision, *_) = gaussians(3, 40)
    rows = features(5, 40)
    expected = mahalanobis_distances_reference(rows, means, [precision] * 3)
    moved = share_gaussians([(m + 1000).float() for m in means], precision.inverse().float())
    actual = mahalanobis_distances((rows + 1000).float(), moved).double()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)  # 1000 has a spacing of 6e-5


def test_of_one_covariance_broken_values_stay_in_their_row_and_column():
    means, (precision, *_) = gaussians(3, 10)
    rows = features(5, 10)
    expected = mahalanobis_distances(rows, share_gaussians(means, precision.inverse()))
    rows[1, 3], rows[2, 9] = torch.nan, torch.inf
    means[2] = torch.full_like(means[2], torch.nan)
    actual = mahalanobis_distances(rows, share_gaussians(means, precision.inverse()))
    assert not actual[[1, 2]].isfinite().any() and actual[:, 2].isnan().all()
    torch.testing.assert_close(actual[[0, 3, 4], :2], expected[[0, 3, 4], :2])


def test_a_mean_itself_is_at_zero():
    means, (precision, *_) = gaussians(3, 10)
    distances = mahalanobis_distances(torch.stack(means), share_gaussians(means, precision.inverse()))
    assert distances.diagonal().max() < 1e-12 and (distances + torch.eye(3)).min() > 0.1


def prototypes_of_few_images(dim=256, images=100, dtype=torch.float32):
    """As in practice: fewer images than channels, so most precisions' eigenvalues are those of 1e-5 I."""
    generator = torch.Generator().manual_seed(2)
    prototypes = []
    for task in range(4):
        spread = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
        rows = torch.randn(images, dim, generator=generator, dtype=torch.float64) @ spread
        prototype = TaskPrototype(task)
        prototype.update((rows + torch.randn(dim, generator=generator, dtype=torch.float64)).to(dtype))
        prototypes.append(prototype)
    return prototypes


def router_of(prototypes):
    router = PrototypeRouter()
    for prototype in prototypes:
        router.add_prototype(prototype)
    return router


def one_by_one(router, rows):
    return torch.stack([p.mahalanobis_distance(rows) for p in router.prototypes.values()], dim=1)


@pytest.mark.parametrize("n", [1, 2, 33])
def test_badly_conditioned_prototypes_keep_their_distances(n):
    router = router_of(prototypes_of_few_images())
    rows = features(n, 256, torch.float32)
    torch.testing.assert_close(router.distances(rows), one_by_one(router, rows), rtol=1e-5, atol=0)


def test_own_images_of_badly_conditioned_prototypes():
    """Where d^T P d cancels: the factored form must stay near fp64, which the definition in fp32 does not."""
    prototypes = prototypes_of_few_images()
    router = router_of(prototypes)
    generator = torch.Generator().manual_seed(2)
    spread = torch.randn(256, 256, generator=generator, dtype=torch.float64) / 16
    own = torch.randn(100, 256, generator=generator, dtype=torch.float64) @ spread
    rows = (own + torch.randn(256, generator=generator, dtype=torch.float64)).float()  # those of the first prototype
    parts = [[getattr(p, name).double() for p in prototypes] for name in ("mean", "precision")]
    expected = mahalanobis_distances_reference(rows.double(), *parts)
    assert expected[:, 0].max() < 12  # images of another task would be at thousands
    torch.testing.assert_close(router.distances(rows).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["indefinite", "singular", "one of them", "skew"])
def test_precisions_without_a_factor(kind):
    means, precisions = gaussians(3, 23)
    if kind == "indefinite":
        precisions = [p - 0.3 * torch.eye(23, dtype=p.dtype) for p in precisions]
    elif kind == "singular":
        precisions = [torch.diag(torch.arange(23, dtype=p.dtype)) for p in precisions]
    elif kind == "one of them":
        precisions[1] = torch.zeros_like(precisions[1])
    else:
        precisions = [p + torch.triu(p, 1) - torch.tril(p, -1) for p in precisions]
    rows = features(6, 23)
    stack = stack_gaussians(means, precisions)
    assert stack.factored == (kind == "skew")
    expected = mahalanobis_distances_reference(rows, means, precisions)
    torch.testing.assert_close(mahalanobis_distances(rows, stack), expected, rtol=1e-9, atol=1e-6)


def test_a_far_mean_does_not_cancel():
    means, precisions = gaussians(3, 40)
    rows = features(5, 40)
    expected = mahalanobis_distances_reference(rows, means, precisions)
    moved = stack_gaussians([(m + 1000).float() for m in means], [p.float() for p in precisions])
    actual = mahalanobis_distances((rows + 1000).float(), moved).double()
    # What is left is the rounding of the inputs: 1000 has a spacing of 6e-5.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)


def test_chunks_change_nothing(monkeypatch):
    stack, rows = stack_gaussians(*gaussians(3, 17)), features(11, 17)
    whole = mahalanobis_distances(rows, stack)
    monkeypatch.setattr(mahalanobis, "_CHUNK_BYTES", 3 * 17 * 8 * 4)  # four rows
    torch.testing.assert_close(mahalanobis_distances(rows, stack), whole, rtol=1e-13, atol=0)


def test_broken_values_stay_in_their_row_and_column():
    means, precisions = gaussians(3, 10)
    rows = features(5, 10)
    expected = mahalanobis_distances(rows, stack_gaussians(means, precisions))
    rows[1, 3], rows[2, 9] = torch.nan, torch.inf
    means[2] = torch.full_like(means[2], torch.nan)
    actual = mahalanobis_distances(rows, stack_gaussians(means, precisions))
    assert not actual[[1, 2]].isfinite().any() and actual[:, 2].isnan().all()
    assert torch.equal(actual[[0, 3, 4], :2], expected[[0, 3, 4], :2])


def test_a_negative_square_is_a_distance_of_zero():
    stack = stack_gaussians([torch.zeros(3)], [-torch.eye(3)])
    assert torch.equal(mahalanobis_distances(torch.ones(1, 3), stack), torch.zeros(1, 1))


@pytest.mark.parametrize("broken", [[], [torch.zeros(3), torch.zeros(4)], [torch.zeros(3), torch.zeros(3).double()]])
def test_gaussians_that_do_not_fit_are_an_error(broken):
    with pytest.raises(ValueError, match="of one shape"):
        stack_gaussians(broken, [torch.eye(len(m), dtype=m.dtype) for m in broken])
    with pytest.raises(ValueError, match="of one shape"):
        share_gaussians(broken, torch.eye(3))


def replace_in_dict(router):
    router.prototypes[1] = prototypes_of_few_images(32, 50)[3]


def replace_by_adding(router):
    prototype = prototypes_of_few_images(32, 50)[3]
    prototype.task_id = 2
    router.add_prototype(prototype)


def add_another(router):
    router.prototypes[7] = prototypes_of_few_images(32, 50)[3]


def remove(router):
    del router.prototypes[0]


def reorder(router):
    router.prototypes[0] = router.prototypes.pop(0)


def update_more(router):
    router.prototypes[1].update(features(9, 32, torch.float32))


def finalize_again(router):
    router.prototypes[1].covariance = torch.eye(32)
    router.prototypes[1].finalize()


def assign_mean(router):
    router.prototypes[0].mean = torch.zeros(32)


def write_precision(router):
    router.prototypes[0].precision.mul_(3)


def write_mean(router):
    router.prototypes[0].mean[4] += 2


def load_state(router):
    router.prototypes[2].load_state_dict(router.prototypes[1].state_dict())


def another_dtype(router):
    router.prototypes[1] = prototypes_of_few_images(32, 50, torch.float64)[3]


def inference_tensor(router):
    with torch.inference_mode():
        router.prototypes[0].precision = 2 * router.prototypes[0].precision


CHANGES = [
    replace_in_dict, replace_by_adding, add_another, remove, reorder, update_more, finalize_again, assign_mean,
    write_precision, write_mean, load_state, another_dtype, inference_tensor,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_stack_is_never_stale(change):
    router = router_of(prototypes_of_few_images(32, 50)[:3])
    rows = features(3, 32, torch.float32)
    before = router.distances(rows)
    change(router)
    after = router.distances(rows)
    torch.testing.assert_close(after, one_by_one(router, rows).to(after), rtol=1e-5, atol=0)
    assert after.shape != before.shape or not torch.allclose(after.to(before), before, rtol=1e-4)


def test_writes_to_inference_tensors_are_seen():
    router = router_of(prototypes_of_few_images(32, 50)[:3])
    rows = features(3, 32, torch.float32)
    inference_tensor(router)
    before = router.distances(rows)
    with torch.inference_mode():
        router.prototypes[0].precision.mul_(4)
    torch.testing.assert_close(router.distances(rows)[:, 0], 2 * before[:, 0], rtol=1e-5, atol=0)


def test_an_unchanged_router_keeps_its_stack():
    router = router_of(prototypes_of_few_images(32, 50))
    rows = features(3, 32, torch.float32)
    router.distances(rows)
    stack = router._stack._built[1]
    router.distances(rows)
    assert stack is not None and router._stack._built[1] is stack


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda router: pickle.loads(pickle.dumps(router))])
def test_a_copy_of_a_router_is_its_own(duplicate):
    router = router_of(prototypes_of_few_images(32, 50))
    rows = features(3, 32, torch.float32)
    before = router.distances(rows)
    other = duplicate(router)
    other.prototypes[0].mean += 1
    torch.testing.assert_close(other.distances(rows), one_by_one(other, rows), rtol=1e-5, atol=0)
    assert torch.equal(router.distances(rows), before)
