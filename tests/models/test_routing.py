"""The router as its users see it: its kinds of covariance, and what it reads."""

import itertools

import pytest
import torch
from sklearn.covariance import ledoit_wolf

from moleflow_fast.models.routing import PrototypeRouter, TaskPrototype

SHRUNK = ("class_ledoit_wolf", "pooled")
KINDS = ("published", *SHRUNK)


def rows(task: int, images: int = 12, dim: int = 20, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Fewer images than channels, of two products alike and others apart."""
    spread = torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    generator = torch.Generator().manual_seed(10 + task)
    noise = torch.randn(images, dim, generator=generator, dtype=torch.float64)
    return (noise @ spread + 4 * torch.randn(dim, generator=generator, dtype=torch.float64)).to(dtype)


def router_of(kind: str, features: dict[int, torch.Tensor]) -> PrototypeRouter:
    router = PrototypeRouter("cpu", covariance=kind)
    for task, taken in features.items():
        prototype = router.new_prototype(task)
        prototype.update(taken)
        router.add_prototype(prototype)
    return router


def test_a_device_named_otherwise_than_its_tensors_changes_nothing() -> None:
    """As "cuda", whose tensors are on "cuda:0"; tensors of "cpu:0" are on "cpu"."""
    router = PrototypeRouter("cpu:0")
    prototype = TaskPrototype(0, device="cpu:0")
    prototype.update(torch.randn(9, 3))
    router.add_prototype(prototype)
    assert router.device == router.route(torch.randn(2, 3)).device
    assert all(a is b for a, b in zip(router.reads(), router.reads(), strict=True))


def oracle(kind: str, features: dict[int, torch.Tensor], query: torch.Tensor) -> torch.Tensor:
    """Distances (n, T) by scikit-learn's covariances."""
    centred = torch.cat([f - f.mean(0) for f in features.values()])
    pooled = ledoit_wolf(centred.numpy(), assume_centered=True)[0]
    columns = []
    for taken in features.values():
        covariance = pooled if kind == "pooled" else ledoit_wolf(taken.numpy())[0]
        difference = query - taken.mean(0)
        columns.append((difference @ torch.from_numpy(covariance).inverse() * difference).sum(1).sqrt())
    return torch.stack(columns, 1)


@pytest.mark.parametrize("kind", SHRUNK)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_distances_and_routes(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    features = {t: rows(t, 9 + 5 * t) for t in (3, 0, 1)}
    query = torch.cat([rows(t, 50)[-20:] for t in features])
    expected = oracle(kind, features, query)
    router = router_of(kind, {t: f.to(dtype) for t, f in features.items()})
    actual = router.distances(query.to(dtype))
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=0)
    assert torch.equal(router.route(query.to(dtype)), torch.tensor([3, 0, 1])[expected.argmin(1)])


def test_pooled_distances_follow_from_the_set_of_tasks_alone() -> None:
    features = {t: rows(t, dtype=torch.float32) for t in range(4)}
    query = rows(7, dtype=torch.float32)
    expected = router_of("pooled", features).distances(query)
    for order in itertools.permutations(features):
        router = router_of("pooled", {t: features[t] for t in order})
        assert torch.equal(router.distances(query)[:, [order.index(t) for t in features]], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_comes_and_goes(kind: str) -> None:
    features = {t: rows(t, dtype=torch.float32) for t in range(3)}
    query = rows(7, dtype=torch.float32)
    router = router_of(kind, {t: features[t] for t in (0, 1)})
    before, prototype = router.distances(query), router.prototypes[0]
    state = {name: value.clone() for name, value in prototype.state_dict().items()}
    added = router_of(kind, {2: features[2]}).prototypes[2]
    router.add_prototype(added)
    with_it = router.distances(query)
    assert torch.equal(with_it, router_of(kind, features).distances(query))
    assert (kind == "pooled") != torch.allclose(with_it[:, :2], before)
    assert all(torch.equal(value, state[name]) for name, value in prototype.state_dict().items())
    del router.prototypes[2]
    assert torch.equal(router.distances(query), before)


@pytest.mark.parametrize("kind", SHRUNK)
@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("others", [0, 1, 30])
def test_few_images_and_constant_features(kind: str, images: int, others: int) -> None:
    features = {0: rows(0, images, dtype=torch.float32), 1: torch.full((3, 20), 0.3)}
    if others:
        features[2] = rows(2, others, dtype=torch.float32)
    router = router_of(kind, features)
    distances = router.distances(torch.cat([rows(0, 4, dtype=torch.float32), *features.values()]))
    assert distances.isfinite().all()
    means = torch.stack([f.mean(0) for f in features.values()])
    assert router.route(means).tolist() == list(features)
    for task, taken in features.items():
        own = router.distances(taken)[:, list(features).index(task)]
        assert router.held_out_distances(task, own).isfinite().all()


@pytest.mark.parametrize("kind", SHRUNK)
def test_state_there_and_back(kind: str) -> None:
    router = router_of(kind, {t: rows(t, dtype=torch.float32) for t in range(2)})
    again = PrototypeRouter("cpu", covariance=kind)
    for task, prototype in router.prototypes.items():
        copy = again.new_prototype(task)
        copy.load_state_dict(prototype.state_dict())
        again.add_prototype(copy)
    query = rows(7, dtype=torch.float32)
    assert torch.equal(again.distances(query), router.distances(query))


def test_a_second_update_is_refused() -> None:
    prototype = PrototypeRouter("cpu", covariance="pooled").new_prototype(4)
    prototype.update(rows(0))
    with pytest.raises(RuntimeError, match="task 4 takes all features in one update"):
        prototype.update(rows(1))


@pytest.mark.parametrize("kind", KINDS)
def test_prototypes_of_another_kind_are_refused(kind: str) -> None:
    other = PrototypeRouter("cpu", covariance="pooled" if kind == "published" else "published").new_prototype(0)
    other.update(rows(0))
    with pytest.raises(ValueError, match=f"covariance {kind} takes prototypes of its new_prototype"):
        PrototypeRouter("cpu", covariance=kind).add_prototype(other)


@pytest.mark.parametrize("kind", SHRUNK)
def test_without_features_it_says_so(kind: str) -> None:
    router = PrototypeRouter("cpu", covariance=kind)
    with pytest.raises(RuntimeError, match="has seen no features"):
        router.add_prototype(router.new_prototype(0))


@pytest.mark.parametrize("kind", SHRUNK)
def test_euclidean_distances_need_no_covariance(kind: str) -> None:
    features, query = rows(0), rows(7)
    router = router_of(kind, {0: features})
    router.use_mahalanobis = False
    torch.testing.assert_close(router.distances(query)[:, 0], (query - features.mean(0)).norm(dim=1))
    assert router.route(query).tolist() == [0] * len(query) and not router.compares_distances


def test_held_out_distances_are_those_without_each_image() -> None:
    """With the shrinkage of all images, as the formula has it."""
    features = {t: rows(t, 15) for t in range(3)}
    router = router_of("pooled", features)
    n, centred = sum(map(len, features.values())), [f - f.mean(0) for f in features.values()]
    whole, shrinkage = ledoit_wolf(torch.cat(centred).numpy(), assume_centered=True)
    level = shrinkage * whole.trace() / 20  # shrinking keeps the trace
    expected = []
    for i in range(15):
        rest = torch.cat([features[1][:i], features[1][i + 1 :]])
        others = [f - f.mean(0) for t, f in features.items() if t != 1] + [rest - rest.mean(0)]
        scatter = sum(f.T @ f for f in others)
        covariance = (1 - shrinkage) / n * scatter + level * torch.eye(20, dtype=torch.float64)
        difference = features[1][i] - rest.mean(0)
        expected.append((difference @ covariance.inverse() @ difference).sqrt())
    own = router.distances(features[1])[:, 1]
    torch.testing.assert_close(router.held_out_distances(1, own), torch.stack(expected), rtol=1e-9, atol=0)
    assert (router.held_out_distances(1, own) > own).all()


@pytest.mark.parametrize("kind", ["published", "class_ledoit_wolf"])
def test_distances_that_are_not_pooled_are_not_corrected(kind: str) -> None:
    router = router_of(kind, {0: rows(0)})
    own = router.distances(rows(0))[:, 0]
    assert router.held_out_distances(0, own) is own


def test_rescaling_is_that_of_the_training_images() -> None:
    features = {t: rows(t, 15) * (1 + t) for t in range(3)}
    before, now = router_of("pooled", {t: features[t] for t in (0, 1)}), router_of("pooled", features)
    squares = [router.distances(features[1])[:, 1].square().mean() for router in (before, now)]
    assert now.rescaling(1, [0, 1], [2, 1, 0]) == pytest.approx(float((squares[1] / squares[0]).sqrt()))
    assert now.rescaling(1, [0, 1], [1, 0]) == 1
