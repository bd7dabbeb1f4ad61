"""Parity of positions, statistics and routing with the published implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moleflow_fast.models.adapters import FeatureStatistics
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator, positionalencoding2d
from moleflow_fast.models.routing import PrototypeRouter, TaskPrototype

GOLDEN = Path(__file__).parents[1] / "golden"
DTYPES = [torch.float32, torch.float64]


def load(name: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    tensors = {n: torch.from_numpy(arrays[n]) for n in arrays.files if n != "meta"}
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    scale = expected.double().abs().max()
    assert ((actual.double() - expected.double()).abs().max() / scale).item() < tolerance


@pytest.mark.parametrize("size", ["8x3x4", "64x28x28", "32x5x7"])
def test_positions(size: str) -> None:
    expected = load("posenc")[size]
    dim, height, width = map(int, size.split("x"))
    close(positionalencoding2d(dim, height, width), expected)
    patches = torch.randn(2, height, width, dim)
    added = PositionalEmbeddingGenerator("cpu")((height, width), patches)
    close(added - patches, expected.permute(1, 2, 0).expand_as(patches))


def test_positions_need_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 30"):
        positionalencoding2d(30, 4, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
def test_feature_statistics(dtype: torch.dtype) -> None:
    golden = load("feature_stats", dtype)
    statistics = FeatureStatistics("cpu")
    statistics.update(golden["a"])
    statistics.update(golden["b"])
    close(statistics.mean, golden["mean"])
    close(statistics.std, golden["std"])
    assert not statistics.is_finalized
    statistics.finalize()
    assert statistics.is_finalized


def golden_router(golden: dict[str, torch.Tensor], use_mahalanobis: bool) -> PrototypeRouter:
    router = PrototypeRouter("cpu", use_mahalanobis)
    for task in range(3):
        prototype = TaskPrototype(task, [f"class{task}"], "cpu")
        prototype.update(golden[f"task{task}/features"])
        prototype.finalize()
        router.add_prototype(prototype)
    return router


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("metric", ["mahalanobis", "euclidean"])
def test_routing(metric: str, dtype: torch.dtype) -> None:
    golden = load("routing", dtype)
    router = golden_router(golden, metric == "mahalanobis")
    # The files were made in fp32 from covariances of condition number up to 1.5e4: inverses of such, theirs and those
    # of another CPU's LAPACK, are good to 2e-4.
    inverted = 2e-4
    for task, prototype in router.prototypes.items():
        close(prototype.mean, golden[f"task{task}/mean"])
        close(prototype.precision, golden[f"task{task}/precision"], inverted)
    tolerance = inverted if metric == "mahalanobis" else 1e-5
    close(router.distances(golden["query"]), golden[f"{metric}/distances"], tolerance)
    assert torch.equal(router.route(golden["query"]), golden[f"{metric}/route"])


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
def test_incremental_prototype(dtype: torch.dtype) -> None:
    golden = load("routing", dtype)
    split = int(golden["incremental/split"])
    prototype = TaskPrototype(0, ["class0"], "cpu")
    prototype.update(golden["incremental/features"][:split])
    prototype.update(golden["incremental/features"][split:])
    close(prototype.mean, golden["incremental/mean"])
    close(prototype.covariance, golden["incremental/covariance"])


def test_a_nan_distance_never_wins() -> None:
    router = golden_router(load("routing"), use_mahalanobis=True)
    router.prototypes[0].mean = torch.full_like(router.prototypes[0].mean, torch.nan)
    assert 0 not in router.route(load("routing")["query"]).tolist()


def test_singular_covariance_takes_the_pseudo_inverse() -> None:
    prototype = TaskPrototype(0, ["flat"], "cpu")
    prototype.update(torch.zeros(3, 4))
    prototype.covariance = torch.zeros(4, 4)
    prototype.finalize()
    assert torch.equal(prototype.precision, torch.zeros(4, 4))


def test_an_empty_router_says_so() -> None:
    with pytest.raises(RuntimeError, match="train a task first"):
        PrototypeRouter("cpu").route(torch.randn(2, 4))
