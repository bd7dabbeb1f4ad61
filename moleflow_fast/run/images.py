"""The images and masks of a run, as data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from moleflow_fast.data import AnomalyImages, Sample, create_task_dataset, get_dataset_class
from moleflow_fast.data.datasets import joined, read_masks
from moleflow_fast.data.framing import scaled
from moleflow_fast.data.requests import Frame
from moleflow_fast.data.tile_images import TileImages
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.tasks import Tasks
from moleflow_fast.system.phases import phase


class RunImages:
    """Data sets of the tasks and classes of a run."""

    def __init__(self, context: RunContext, tasks: Tasks) -> None:
        self._context = context
        self._tasks = tasks

    @property
    def frame(self) -> Frame:
        """How images and masks are seen."""
        options = self._context.options
        return Frame(options.img_size, options.img_size, options.mask_size, options.view)

    def training(self, classes: list[str], rotated: bool = True) -> Any:
        """Training images of a task, rotated where the run does so, unless they are wanted as they are."""
        return joined(self.training_by_place(classes, rotated))

    def training_by_place(self, classes: list[str], rotated: bool = True) -> list[AnomalyImages]:
        """One data set for each place that images of the task lie in."""
        indices = {name: i for i, name in enumerate(self._tasks.classes)}
        options = [self._data_options(source, rotated) for source in self._tasks.sources_of(classes[0])]
        return [create_task_dataset(one, classes, indices, train=True) for one in options]

    def test(self, name: str) -> Any:
        """Test images of a class."""
        return joined(self.test_by_place(name))

    def test_by_place(self, name: str) -> list[AnomalyImages]:
        """One data set for each place that test images of a class lie in."""
        options = self._context.options
        size = options.img_size
        shapes: dict[str, Any] = {
            "img_size": size, "crp_size": size, "msk_size": options.mask_size, "view": options.view,
        }  # fmt: skip
        datasets: list[AnomalyImages] = [
            get_dataset_class(layout)(root, name, train=False, **shapes)
            for layout, root in self._tasks.sources_of(name)
        ]
        return [dataset for dataset in datasets if len(dataset)] or datasets[:1]

    def normal(self, samples: Sequence[Sample]) -> AnomalyImages:
        """Images of no data set, without masks."""
        size = self._context.options.img_size
        return AnomalyImages(samples, has_masks=False, img_size=size, crp_size=size, view=self._context.options.view)

    def items_of(self, dataset: Any) -> Any:
        """What the backbone sees of the pictures of a data set, one item each time it is asked: they, or squares."""
        return TileImages(dataset) if self._context.options.view == "tiles" else dataset

    def are_worth_keeping(self, samples: Sequence[Sample], train: bool) -> bool:
        """Whether what is seen of the images is: their features are not known, and always the same."""
        options = self._context.options
        if train and options.use_rotation_aug:
            return False
        if options.view == "tiles":
            return False  # what is kept is a square a picture
        return options.no_feature_cache or not self._context.cache.may_know(self.normal(samples))

    def masks_of(self, dataset: Any) -> torch.Tensor | list[torch.Tensor] | None:
        """(N, S, S) bool, True where defective, or with tiles each in the shape of its picture; None without masks."""
        if not dataset.has_masks:
            return None
        with phase("decoding"):
            if self._context.options.view == "tiles":
                return self._shaped_masks_of(dataset)
            return read_masks(dataset, self._context.decoder)

    def _shaped_masks_of(self, dataset: Any) -> list[torch.Tensor]:
        """bool, of each the short side has `mask_size` pixels."""
        sizes = [self.frame.tiling_of(sample.path).picture for sample in dataset.samples]
        masks = [torch.zeros(scaled(size, dataset.msk_size)[::-1], dtype=torch.bool) for size in sizes]
        requests = dataset.masks()
        decoded = self._context.decoder.pixels([[r] for r in requests.values()])
        for i, pixels in zip(requests, decoded, strict=True):
            masks[i] = torch.from_numpy(pixels[0]).bool()
        return masks

    def _data_options(self, source: tuple[str, Path], rotated: bool) -> SimpleNamespace:
        options = self._context.options
        layout, root = source
        return SimpleNamespace(
            dataset=layout,
            data_path=root,
            img_size=options.img_size,
            msk_size=options.mask_size,
            use_rotation_aug=options.use_rotation_aug and rotated,
            rotation_degrees=options.rotation_degrees,
            view=options.view,
        )
