"""Anomaly maps of test images, each made once per expert, and what is known of a class besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from moleflow_fast.data.framing import scaled
from moleflow_fast.data.stitching import of_pictures, picture_features
from moleflow_fast.evaluation.class_result import ClassResult
from moleflow_fast.evaluation.picture_maps import Maps, PictureMaps
from moleflow_fast.evaluation.regions import DefectivePixels, defective_pixels, defective_pixels_of
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models.routing import Sources, same_sources
from moleflow_fast.ops.image_score import rank_non_finite_as_anomalous
from moleflow_fast.ops.pixel_map import picture_map, pixel_map
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer.feature_loader import FeatureSource

# Far above any -log p, and small enough that sums of it stay finite in fp32.
WORST_SCORE = 1e30


class TestFeatures(FeatureSource, Protocol):
    """Features of a class's test images."""

    @property
    def image_features(self) -> Tensor: ...


class NoImages:
    """Of a class without test images."""

    def __init__(self, width: int) -> None:
        self.image_features = torch.empty(0, width)

    def __len__(self) -> int:
        return 0

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(())


@dataclass
class TestClass:
    """One class's test images, as features, with labels (N,) and masks (N, S, S), None if image-level only.

    Where features are of squares of pictures, N counts pictures, and masks are in their own shapes.

    What is kept, but for the route, is of one scorer and of experts that do not change: see `Scorer.forget_maps`.
    """

    __test__ = False  # not a pytest class

    name: str
    task_id: int
    source: TestFeatures
    labels: Tensor
    masks: Tensor | list[Tensor] | None
    results: dict[tuple[int, ...], ClassResult] = field(default_factory=dict)  # task id of each image -> figures
    _maps: dict[int, dict[int, Tensor]] = field(default_factory=dict)  # task id -> image -> map (H, W)
    _route: tuple[Sources, Tensor] | None = None  # prototypes -> task ids (N,)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def defects(self) -> DefectivePixels | None:
        """Labelled when first asked for; None without masks."""
        if isinstance(self.masks, list):
            return defective_pixels_of(self.masks)
        return None if self.masks is None else defective_pixels(self.masks)

    @cached_property
    def image_features(self) -> Tensor:
        """(N, D)"""
        return picture_features(self.source)


class Scorer:
    """Scores test classes.

    Maps stay on the device they were made on and are kept per (class, expert): with a frozen base an old expert's map
    cannot change, so after a new task only images whose route changed are scored.
    """

    def __init__(self, moleflow: MoLEFlow, size: int, sigma: float, interp_mode: str, batch_size: int) -> None:
        self.moleflow = moleflow
        self.size = size
        self.sigma = sigma
        self.interp_mode = interp_mode
        self.batch_size = batch_size

    def route(self, test: TestClass) -> Tensor:
        """Task id of each image (N,), found once for the same prototypes; the true one if the router is off."""
        if not self.moleflow.config.use_router or not len(test):
            return self.true_ids(test)
        router = self.moleflow.router
        sources = router.sources()
        if test._route is None or not same_sources(sources, test._route[0]):
            with phase("routing"):
                test._route = sources, router.route(test.image_features).cpu()
        return test._route[1]

    def true_ids(self, test: TestClass) -> Tensor:
        return torch.full((len(test),), test.task_id)

    def patch_maps(self, test: TestClass, task_ids: Tensor) -> Maps:
        """-log p per patch (N, H, W), or in pictures' own shapes, each image under its own task id."""
        for task_id in task_ids.unique().tolist():
            self._require(test, (task_ids == task_id).nonzero().flatten().tolist(), task_id)
        return _of_images(test, range(len(test)), [test._maps[t][i] for i, t in enumerate(task_ids.tolist())])

    def patch_maps_under(self, test: TestClass, images: Sequence[int], task_id: int) -> Maps:
        """-log p per patch (n, H, W) of some of a class's images, all under one task id."""
        self._require(test, images, task_id)
        return _of_images(test, images, [test._maps[task_id][i] for i in images])

    def pixel_maps(self, patch_maps: Tensor) -> Tensor:
        """Resize to (N, S, S) and smooth; non-finite scores become the largest."""
        with phase("scoring"):
            return pixel_map(bounded(patch_maps), self.size, self.sigma, self.interp_mode)

    def picture_maps(self, patch_maps: PictureMaps) -> list[Tensor]:
        """The same for pictures in their own shapes: of each the short side has S pixels."""
        with phase("scoring"):
            return [
                picture_map(bounded(one), scaled(size, self.size)[::-1], self.sigma, self.interp_mode)
                for one, size in zip(patch_maps.maps, patch_maps.pictures, strict=True)
            ]

    def forget_maps(self, tests: Iterable[TestClass]) -> None:
        """Drop kept maps and what was computed from them: for configurations in which old experts change."""
        for test in tests:
            test._maps.clear()
            test.results.clear()

    def _require(self, test: TestClass, images: Sequence[int], task_id: int) -> None:
        known = test._maps.setdefault(task_id, {})
        with phase("scoring"):
            known.update(self._score(test, [i for i in images if i not in known], task_id))

    def _score(self, test: TestClass, images: list[int], task_id: int) -> dict[int, Tensor]:
        pictures = of_pictures(test.source)
        items = images if pictures is None else pictures.squares(images)
        batches = list(torch.tensor(items, dtype=torch.long).split(self.batch_size)) if items else []
        maps: list[Tensor] = []
        for patches, _ in test.source.batches(batches):
            ids = torch.full((len(patches),), task_id, device=patches.device)
            maps.extend(self.moleflow.anomaly_maps(patches, ids))
        if pictures is not None and images:
            maps = pictures.stitched(images, bounded(torch.stack(maps)))
        return dict(zip(images, maps, strict=True))


def pixels_of(scorer: Scorer, patch_maps: Maps) -> Tensor | list[Tensor]:
    """`pixel_maps` or `picture_maps`."""
    return scorer.pixel_maps(patch_maps) if isinstance(patch_maps, Tensor) else scorer.picture_maps(patch_maps)


def _of_images(test: TestClass, images: Sequence[int], maps: Sequence[Tensor]) -> Maps:
    pictures = of_pictures(test.source)
    if pictures is None:
        return torch.stack(list(maps))
    return PictureMaps(list(maps), [pictures.tilings[i].picture for i in images])


def bounded(values: Tensor) -> Tensor:
    """Finite: what could not be computed is `WORST_SCORE`."""
    return rank_non_finite_as_anomalous(values).clamp(-WORST_SCORE, WORST_SCORE)
