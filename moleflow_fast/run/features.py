"""Features of a run's images, each image through the backbone once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from moleflow_fast.data.datasets import joined
from moleflow_fast.data.stitching import OfPictures
from moleflow_fast.data.tile_images import TileImages
from moleflow_fast.evaluation.scorer import NoImages, TestClass
from moleflow_fast.extractors import PatchExtractor
from moleflow_fast.extractors.stores import FeatureStore, JoinedStore
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.images import RunImages
from moleflow_fast.run.tasks import Tasks
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer.feature_loader import FeatureLoader


class RunFeatures:
    """Features of the training images of tasks, and of the test images of classes, which are kept."""

    def __init__(self, context: RunContext, tasks: Tasks, images: RunImages, extractor: PatchExtractor) -> None:
        self._context = context
        self._tasks = tasks
        self._images = images
        self._extractor = extractor
        self._tests: dict[str, TestClass] = {}

    def training(self, classes: list[str], rotated: bool = True) -> FeatureStore:
        """Features of the training images of a task, see `RunImages.training`."""
        datasets = self._images.training_by_place(classes, rotated)
        return self._joint(datasets, f"features {', '.join(classes)} train")

    def loader(self, task_id: int) -> FeatureLoader:
        """The training images of a task as it goes through them."""
        options = self._context.options
        return FeatureLoader(self.training(self._tasks[task_id]), options.batch_size, options.seed + task_id)

    def tests_until(self, task_id: int) -> list[TestClass]:
        """The test classes of the active tasks up to `task_id` whose images are there."""
        there = [t for t in self._tasks.active if t <= task_id and self._tasks.have_images(t)]
        return [self.test_class(name, t) for t in there for name in self._tasks[t]]

    def test_class(self, name: str, task_id: int) -> TestClass:
        """The test images of a class of a task."""
        if name not in self._tests:
            datasets = self._images.test_by_place(name)
            dataset = joined(datasets)
            labels = torch.tensor([sample.label for sample in dataset.samples])
            masks = self._images.masks_of(dataset)
            there = len(dataset) > 0
            source = self._joint(datasets, f"features {name} test") if there else NoImages(self._extractor.embed_dim)
            self._tests[name] = TestClass(name, task_id, source, labels, masks)
        return self._tests[name]

    def read_ahead(self, tests: Sequence[str], task_id: int | None) -> None:
        """Have images read that classes are tested on and a task trains on, where they are not in memory yet."""
        datasets = [one for name in tests if name not in self._tests for one in self._images.test_by_place(name)]
        if task_id is not None:
            datasets += self._images.training_by_place(self._tasks[task_id])
        for dataset in datasets:
            if self._images.are_worth_keeping(dataset.samples, train=dataset.augmented):
                self._context.decoder.read_ahead(dataset.pictures)

    def _joint(self, datasets: Sequence[Any], title: str) -> FeatureStore:
        """Of all images; those of each data set are cached by themselves, so that adding one leaves them known."""
        if len(datasets) == 1 or datasets[0].augmented or self._context.options.view == "tiles":
            return self.of(joined(datasets), title)
        return JoinedStore([self.of(dataset, title) for dataset in datasets])

    def of(self, dataset: Any, title: str) -> FeatureStore:
        """Features of any images, with a progress bar of that title."""
        context, items = self._context, self._images.items_of(dataset)
        with phase("cache"), context.console.counting(title) as progress:
            features = context.cache.features(
                items,
                self._extractor,
                context.options.batch_size,
                context.decoder,
                progress,
                enabled=not context.options.no_feature_cache,
            )
        if features.origin != "backbone":
            context.decoder.forget(items.pictures)
        if isinstance(items, TileImages):
            features.of_pictures = OfPictures(items.tilings)
        return features
