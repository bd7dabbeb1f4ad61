"""What a run is made of: data, device, backbone, trainer and features, built from its options."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from moleflow_fast.backend import use_backend, use_precision
from moleflow_fast.config.change import learned_again
from moleflow_fast.config.options import RunOptions
from moleflow_fast.config.scenario import split_into_tasks
from moleflow_fast.console import RunConsole
from moleflow_fast.data import AnomalyImages, Sample, create_task_dataset, get_class_names, get_dataset_class
from moleflow_fast.data.datasets import joined, read_masks
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.demo import is_demo, write_demo
from moleflow_fast.data.framing import scaled
from moleflow_fast.data.layouts import is_there
from moleflow_fast.data.requests import Frame
from moleflow_fast.data.stitching import OfPictures
from moleflow_fast.data.tile_images import TileImages
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.scorer import NoImages, Scorer, TestClass
from moleflow_fast.extractors import (
    Parity,
    PatchExtractor,
    WeightsUnavailable,
    create_feature_extractor,
    high_res_layers,
    reduce_precision,
)
from moleflow_fast.extractors.cache import FeatureCache
from moleflow_fast.extractors.stores import FeatureStore, JoinedStore
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.precompile.background import Precompilation
from moleflow_fast.run.backbone import drawn_as_by
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.loader_features import feature_cache

_PARITY_IMAGES = 8


class RunParts:
    """The parts of a run; each is built once, when first needed.

    Args:
        decoder: where its processes were started earlier than now.
        weights_of: a run that drew random weights for such a backbone before: they are taken.
    """

    def __init__(
        self,
        options: RunOptions,
        console: RunConsole | None = None,
        decoder: Decoder | None = None,
        weights_of: RunDirectory | None = None,
    ) -> None:
        self.options = options
        self.weights_of = weights_of
        if decoder is not None:
            self.decoder = decoder
        self.console = console or RunConsole(options.quiet)
        self.parity: Parity | None = None
        self.fell_back_to_random_weights = False
        self.logger = logging.getLogger("moleflow_fast")
        self._tests: dict[str, TestClass] = {}

    @contextmanager
    def as_chosen(self) -> Iterator[None]:
        """The backend and the precision of the options, on the run's device.

        Triton launches on the current device, which every thread has of its own: 0 until it is told another.
        """
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with use_backend(self.options.backend), use_precision(self.options.precision), on_device:
            yield

    def close(self) -> None:
        """End what goes on beside the run; features that are being written are written first."""
        self.decoder.close()
        self.cache.settle()

    @cached_property
    def data_root(self) -> Path:
        if self.options.data_path is None:
            return write_demo(self.options.demo_folder)
        path = Path(self.options.data_path)
        if self.options.dataset == "demo" and path.is_dir() and not is_demo(path):
            raise UserError(
                f"{path} is not the synthetic demo set; say what it is with --dataset folder (or mvtec, visa, mpdd)"
            )
        return path

    @cached_property
    def tasks(self) -> list[list[str]]:
        """The classes of each task that was ever learned, removed ones included: task ids never change."""
        classes = self.options.task_classes or get_class_names(self.options.layout, self.data_root)
        try:
            first = split_into_tasks(list(classes), self.options.cl_scenario)
        except ValueError as error:
            raise UserError(str(error)) from error
        return first + [[name] for extension in self.options.extensions for name in extension.task_classes]

    @property
    def active_tasks(self) -> list[int]:
        """Those that have not been removed, nor learned again by a later one."""
        gone = learned_again(self.options.extensions, self.tasks) | set(self.options.removed_tasks)
        return [t for t in range(len(self.tasks)) if t not in gone]

    @property
    def classes(self) -> list[str]:
        """Of the active tasks."""
        return [name for t in self.active_tasks for name in self.tasks[t]]

    def sources_of(self, name: str) -> list[tuple[str, Path]]:
        """Layouts and folders of a class's images, in the order in which they were learned."""
        later: list[tuple[str, Path]] = []
        for extension in reversed(self.options.extensions):  # a class that was removed may have been learned anew
            if name not in extension.task_classes:
                continue
            later.insert(0, (extension.dataset, Path(extension.data_path)))
            if not extension.again:
                break
        else:
            later.insert(0, (self.options.layout, self.data_root))
        return list({(layout, os.path.realpath(root)): (layout, root) for layout, root in later}.values())

    def has_images(self, task_id: int) -> bool:
        """Whether a task's images are there, which those of a finished run need not be once it is changed."""
        if not (self.options.extensions or self.options.removed_tasks):
            return True
        return all(is_there(*source, name) for name in self.tasks[task_id] for source in self.sources_of(name))

    def retire(self) -> None:
        """Have the router forget tasks that are not active."""
        for task_id in self.trainer.router.prototypes.keys() - set(self.active_tasks):
            del self.trainer.router.prototypes[task_id]

    @cached_property
    def device(self) -> torch.device:
        if self.options.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not re.fullmatch(r"(cpu|cuda)(:\d+)?", self.options.device):
            raise UserError(f"--device {self.options.device} does not work here: it must be auto, cpu, cuda or cuda:N")
        try:
            device = torch.device(self.options.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--device {self.options.device} does not work here ({reason}); use cpu or auto") from error
        return device

    @cached_property
    def extractor(self) -> PatchExtractor:
        with phase("backbone"), drawn_as_by(self.weights_of):
            return self._narrowed(self._full_extractor())

    def _full_extractor(self) -> PatchExtractor:
        if self._drawn is not None:
            self.fell_back_to_random_weights = not self.options.random_backbone
            return self._create_extractor(False)
        try:
            return self._create_extractor(False if self.options.random_backbone else None)
        except WeightsUnavailable as error:
            if self.options.dataset != "demo":
                raise
            self.console.warn(f"{error}\nThe demo goes on with RANDOM backbone weights: expect poor detection.")
            self.fell_back_to_random_weights = True
            return self._create_extractor(False)

    @property
    def _drawn(self) -> Path | None:
        """The file with random weights that were drawn before."""
        if self.weights_of is None or self.options.backbone_weights or not self.weights_of.backbone.exists():
            return None
        return self.weights_of.backbone

    @cached_property
    def trainer(self) -> MoLEContinualTrainer:
        self._seed()
        model = MoLESpatialAwareNF(**self._model_options, device=self.device, ablation_config=self.options.ablation)
        return MoLEContinualTrainer(
            self.extractor,
            PositionalEmbeddingGenerator(self.device),
            model,
            self.options,
            self.device,
            self.options.slow_lr_ratio,
            self.options.slow_blocks_k,
            logger=self.logger,
        )

    def _seed(self) -> None:
        """The generators that a model is made with. Those of other devices are whoever's process this is."""
        torch.default_generator.manual_seed(self.options.seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(self.options.seed)

    @property
    def moleflow(self) -> MoLEFlow:
        return self.trainer.moleflow

    @cached_property
    def scorer(self) -> Scorer:
        options = self.options
        return Scorer(
            self.moleflow, options.mask_size, options.score_smooth_sigma, options.interp_mode, options.batch_size
        )

    @cached_property
    def cache(self) -> FeatureCache:
        return feature_cache(self.options, self.device)

    @cached_property
    def decoder(self) -> Decoder:
        """One for the whole run."""
        return Decoder(self.options.num_workers)

    @cached_property
    def kernels(self) -> Precompilation | None:
        """The run's kernels, compiled beside it from the first call on; None where its flow launches none."""
        if not self.trainer.steps_are_graphs:
            return None
        major, minor = torch.cuda.get_device_capability(self.device)
        from moleflow_fast.kernels.ways import current_table  # it needs Triton, which a CPU does not

        return Precompilation(
            self.options,
            self.extractor.embed_dim,
            self._grid,
            10 * major + minor,
            current_table(self.device),
            self.console,
        )

    def _grid(self) -> tuple[int, int]:
        """Patches of an image, (H, W)."""
        image = torch.zeros(1, 3, self.options.img_size, self.options.img_size)
        with use_backend("eager"):  # nothing that would have to be compiled
            _, height, width, _ = self.extractor(image).shape
        return height, width

    # -- features ------------------------------------------------------------------------------------

    def training_features(self, classes: list[str], rotated: bool = True) -> FeatureStore:
        """Features of the training images of a task, see `training_dataset`."""
        return self._joint_features(self._training_datasets(classes, rotated), f"features {', '.join(classes)} train")

    def training_loader(self, task_id: int) -> FeatureLoader:
        """Its training images as the task goes through them."""
        features = self.training_features(self.tasks[task_id])
        return FeatureLoader(features, self.options.batch_size, self.options.seed + task_id)

    def _joint_features(self, datasets: Sequence[Any], title: str) -> FeatureStore:
        """Of all images; those of each data set are cached by themselves, so that adding one leaves them known."""
        if len(datasets) == 1 or datasets[0].augmented or self.options.view == "tiles":
            return self._features_of(joined(datasets), title)
        return JoinedStore([self._features_of(dataset, title) for dataset in datasets])

    def items_of(self, dataset: Any) -> Any:
        """What the backbone sees of the pictures of a data set, one item each time it is asked: they, or squares."""
        return TileImages(dataset) if self.options.view == "tiles" else dataset

    def _features_of(self, dataset: Any, title: str) -> FeatureStore:
        options = self.options
        items = self.items_of(dataset)
        with phase("cache"), self.console.counting(title) as progress:
            features = self.cache.features(
                items,
                self.extractor,
                options.batch_size,
                self.decoder,
                progress,
                enabled=not options.no_feature_cache,
            )
        if features.origin != "backbone":
            self.decoder.forget(items.pictures)
        if isinstance(items, TileImages):
            features.of_pictures = OfPictures(items.tilings)
        return features

    def read_ahead(self, tests: Sequence[str], task_id: int | None) -> None:
        """Have images read that classes are tested on and a task trains on, where they are not in memory yet."""
        datasets = [dataset for name in tests if name not in self._tests for dataset in self._test_datasets(name)]
        if task_id is not None:
            datasets += self._training_datasets(self.tasks[task_id])
        for dataset in datasets:
            if self.wants_pictures(dataset.samples, train=dataset.augmented):
                self.decoder.read_ahead(dataset.pictures)

    def wants_pictures(self, samples: Sequence[Sample], train: bool) -> bool:
        """Whether what is seen of the images is worth keeping: their features are not known, and always the same."""
        if train and self.options.use_rotation_aug:
            return False
        size = self.options.img_size
        if self.options.view == "tiles":
            return False  # what is kept is a square a picture
        dataset = AnomalyImages(samples, has_masks=False, img_size=size, crp_size=size, view=self.options.view)
        return self.options.no_feature_cache or not self.cache.may_know(dataset)

    def tests_until(self, task_id: int) -> list[TestClass]:
        """The test classes of the active tasks up to `task_id` whose images are there."""
        there = [t for t in self.active_tasks if t <= task_id and self.has_images(t)]
        return [self.test_class(name, t) for t in there for name in self.tasks[t]]

    def test_class(self, name: str, task_id: int) -> TestClass:
        """The test images of a class of a task."""
        if name not in self._tests:
            dataset = self.test_dataset(name)
            labels = torch.tensor([sample.label for sample in dataset.samples])
            of_class = self._shaped_masks_of if self.options.view == "tiles" else self._masks_of
            masks = of_class(dataset) if dataset.has_masks else None
            title = f"features {name} test"
            there = len(dataset) > 0
            source = (
                self._joint_features(self._test_datasets(name), title) if there else NoImages(self.extractor.embed_dim)
            )
            self._tests[name] = TestClass(name, task_id, source, labels, masks)
        return self._tests[name]

    def _masks_of(self, dataset: AnomalyImages) -> torch.Tensor:
        """(N, S, S) bool, True where defective."""
        with phase("decoding"):
            return read_masks(dataset, self.decoder)

    def _shaped_masks_of(self, dataset: AnomalyImages) -> list[torch.Tensor]:
        """bool, each in the shape of its picture, the short side `mask_size` pixels."""
        sizes = [self.frame.tiling_of(sample.path).picture for sample in dataset.samples]
        masks = [torch.zeros(scaled(size, dataset.msk_size)[::-1], dtype=torch.bool) for size in sizes]
        requests = dataset.masks()
        with phase("decoding"):
            for i, pixels in zip(requests, self.decoder.pixels([[r] for r in requests.values()]), strict=True):
                masks[i] = torch.from_numpy(pixels[0]).bool()
        return masks

    @property
    def frame(self) -> Frame:
        """How images and masks are seen."""
        return Frame(self.options.img_size, self.options.img_size, self.options.mask_size, self.options.view)

    def training_dataset(self, classes: list[str], rotated: bool = True) -> Any:
        """Training images of a task, rotated where the run does so, unless they are wanted as they are."""
        return joined(self._training_datasets(classes, rotated))

    def _training_datasets(self, classes: list[str], rotated: bool = True) -> list[AnomalyImages]:
        """One for each place that images of the task lie in."""
        indices = {name: i for i, name in enumerate(self.classes)}
        options = [self._data_options(source, rotated) for source in self.sources_of(classes[0])]
        return [create_task_dataset(one, classes, indices, train=True) for one in options]

    def test_dataset(self, name: str) -> Any:
        return joined(self._test_datasets(name))

    def _test_datasets(self, name: str) -> list[AnomalyImages]:
        """One for each place that test images of a class lie in."""
        options, size = self.options, self.options.img_size
        shapes: dict[str, Any] = {
            "img_size": size, "crp_size": size, "msk_size": options.mask_size, "view": options.view,
        }  # fmt: skip
        sources = self.sources_of(name)
        datasets: list[AnomalyImages] = [
            get_dataset_class(layout)(root, name, train=False, **shapes) for layout, root in sources
        ]
        return [dataset for dataset in datasets if len(dataset)] or datasets[:1]

    # -- options in the shapes that the parts take ---------------------------------------------------

    def _create_extractor(self, pretrained: bool | None) -> PatchExtractor:
        options = self.options
        layers = high_res_layers(options.backbone_name) if options.use_high_res else options.backbone_layers
        return create_feature_extractor(
            options.backbone_name,
            (3, options.img_size, options.img_size),
            options.embed_dim,
            self.device,
            blocks_to_extract=options.vit_blocks,
            layers=layers,
            weights=options.backbone_weights,
            pretrained=pretrained,
            drawn=None if pretrained is None else self._drawn,
        )

    def _narrowed(self, extractor: PatchExtractor) -> PatchExtractor:
        """The extractor in `--backbone_precision`, compared with fp32 on a few training images."""
        precision = self.options.backbone_precision
        if precision != "fp32":
            dataset = self.training_dataset(self.tasks[next(t for t in self.active_tasks if self.has_images(t))])
            images = torch.stack([dataset[i][0] for i in range(min(_PARITY_IMAGES, len(dataset)))])
            self.parity = reduce_precision(extractor, precision, images)
        return extractor

    def _data_options(self, source: tuple[str, Path], rotated: bool) -> SimpleNamespace:
        options = self.options
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

    @property
    def _model_options(self) -> dict[str, Any]:
        return {
            "embed_dim": self.extractor.embed_dim,
            "coupling_layers": self.options.num_coupling_layers,
            "lora_rank": self.options.lora_rank,
            "lora_alpha": self.options.lora_alpha,
        }

    @property
    def checkpoint_options(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the run that loads it."""
        return {**self._model_options, "backbone": self.extractor.fingerprint(), **vars(self.options.ablation)}
