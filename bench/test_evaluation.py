"""One class's evaluation from its patch maps, whole and part by part: 80 maps of 28 x 28 to 224 x 224 (4.0 million
scores, two percent anomalous), sigma 4.

The whole is `evaluate_class`, which reports more than the published evaluation: AUPRO and the best F1 too. Same
results: tests/evaluation/ and tests/bench/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backends import running
from counts import Work, pixel_maps, ranking
from device import SMALL
from published import published_evaluation, published_pixel_maps, published_ranking
from recording import record
from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.evaluation.by_class import evaluate_class
from moleflow_fast.evaluation.metrics import aupro, pixel_metrics, ranking_metrics
from moleflow_fast.evaluation.regions import defective_pixels
from moleflow_fast.evaluation.scorer import Scorer, TestClass
from moleflow_fast.ops.gaussian_smooth import gaussian_smooth

MAPS, GRID, SIZE, SIGMA = (6, 7, 56, 4.0) if SMALL else (80, 28, 224, 4.0)
PIXELS = MAPS * SIZE**2
BACKENDS = ("published", "eager", "cpp")


class MapSource:
    """Patch maps (N, H, W) in the place of features: what `scorer` scores with is their only channel."""

    def __init__(self, maps: Tensor) -> None:
        self.patches = maps[..., None]
        self.image_features = self.patches.mean((1, 2))

    def __len__(self) -> int:
        return len(self.patches)

    def batches(self, index_batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for index in index_batches:
            yield self.patches[index], self.image_features[index]


@pytest.fixture(scope="module")
def masks() -> Tensor:
    """(N, S, S), blobs; the first eighth of the images are good."""
    noise = torch.randn(MAPS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    smooth = gaussian_smooth(noise, 6.0)
    masks = smooth > np.quantile(smooth.numpy(), 0.98)
    masks[: MAPS // 8 or 1] = False
    return masks


@pytest.fixture(scope="module")
def patch_maps(masks: Tensor) -> Tensor:
    """(N, H, W), higher where a mask is set."""
    noise = torch.randn(MAPS, GRID, GRID, generator=torch.Generator().manual_seed(0))
    return noise + 4 * torch.nn.functional.adaptive_avg_pool2d(masks.float(), GRID)


@pytest.fixture(scope="module")
def tested(patch_maps: Tensor, masks: Tensor) -> TestClass:
    return TestClass("class", 0, MapSource(patch_maps), masks.flatten(1).any(1).long(), masks)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    moleflow = SimpleNamespace(config=AblationConfig(), anomaly_maps=lambda patches, ids: patches[..., 0])
    return Scorer(moleflow, SIZE, SIGMA, "bilinear", batch_size=16)  # type: ignore[arg-type]


def _timed(benchmark: Any, backend: str, function: Callable[..., object], *args: object) -> None:
    with running(backend):
        benchmark.pedantic(function, args, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_class_evaluation(benchmark: Any, scorer: Scorer, tested: TestClass, backend: str) -> None:
    work = pixel_maps(MAPS, (GRID, GRID), SIZE, SIGMA) + ranking(PIXELS)
    record(benchmark, f"evaluation of one class, {MAPS} images of {SIZE} px", work)
    if backend == "published":
        maps = scorer.patch_maps(tested, scorer.true_ids(tested))
        _timed(benchmark, backend, published_evaluation, maps, tested.labels, tested.masks, SIGMA)
    else:
        _timed(benchmark, backend, evaluate_class, scorer, tested, scorer.true_ids(tested))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixel_maps(benchmark: Any, scorer: Scorer, patch_maps: Tensor, backend: str) -> None:
    record(benchmark, f"pixel maps of {MAPS} images: resize and smooth", pixel_maps(MAPS, (GRID, GRID), SIZE, SIGMA))
    if backend == "published":
        _timed(benchmark, backend, published_pixel_maps, patch_maps, SIZE, SIGMA)
    else:
        _timed(benchmark, backend, scorer.pixel_maps, patch_maps)


@pytest.mark.parametrize("backend", ["published", "cpp"])
def test_ranking(benchmark: Any, scorer: Scorer, patch_maps: Tensor, masks: Tensor, backend: str) -> None:
    maps = scorer.pixel_maps(patch_maps)
    record(benchmark, f"pixel AUROC and AP of {MAPS} maps (cpp: best F1 too)", ranking(PIXELS))
    _timed(benchmark, backend, published_ranking if backend == "published" else ranking_metrics, maps, masks)


@pytest.mark.parametrize("backend", ["cpp"])
def test_aupro(benchmark: Any, scorer: Scorer, patch_maps: Tensor, masks: Tensor, backend: str) -> None:
    record(benchmark, f"AUPRO of {MAPS} maps, every threshold, and their regions", ranking(PIXELS))
    _timed(benchmark, backend, aupro, scorer.pixel_maps(patch_maps), masks)


@pytest.mark.parametrize("backend", ["cpp"])
def test_all_from_one_sort(benchmark: Any, scorer: Scorer, patch_maps: Tensor, masks: Tensor, backend: str) -> None:
    record(benchmark, f"pixel AUROC, AP, best F1 and AUPRO of {MAPS} maps, regions known", ranking(PIXELS))
    _timed(benchmark, backend, pixel_metrics, scorer.pixel_maps(patch_maps), defective_pixels(masks))


@pytest.mark.parametrize("backend", ["cpp"])
def test_regions(benchmark: Any, masks: Tensor, backend: str) -> None:
    record(benchmark, f"regions of {MAPS} masks, once a class", Work(0, PIXELS))
    _timed(benchmark, backend, defective_pixels, masks)
