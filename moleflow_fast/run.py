"""One continual run from its options to its tables: data, backbone, training, evaluation, pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from moleflow_fast.backend import flow_backend, runs_compiled, use_backend, use_precision, why_not_precision
from moleflow_fast.config.known_bad import known_bad
from moleflow_fast.config.options import RunOptions
from moleflow_fast.config.scenario import split_into_tasks
from moleflow_fast.console import RunConsole
from moleflow_fast.data import check_dataset, create_task_dataset, get_class_names, get_dataset_class
from moleflow_fast.data.demo import is_demo, write_demo
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.diagnostics import task_diagnostics
from moleflow_fast.evaluation.evaluator import Evaluation, evaluate_all_tasks, evaluate_routing_performance
from moleflow_fast.evaluation.forgetting import Forgetting, forgetting
from moleflow_fast.evaluation.pictures import choose_images, confusion_figure, heatmap_figure
from moleflow_fast.evaluation.scorer import Scorer, TestClass
from moleflow_fast.extractors import (
    Parity,
    PatchExtractor,
    WeightsUnavailable,
    create_feature_extractor,
    high_res_layers,
    reduce_precision,
)
from moleflow_fast.extractors.cache import FeatureCache
from moleflow_fast.extractors.stores import FeatureStore
from moleflow_fast.files import write_json
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.run_directory import RunDirectory
from moleflow_fast.tensorboard import TensorBoardLog, summary_writer_class
from moleflow_fast.trainer import checkpoint
from moleflow_fast.trainer.continual_trainer import BatchRecord, EpochRecord, MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader

HEADLINE = ("image_auroc", "pixel_auroc", "pixel_ap", "image_ap", "aupro", "routing_accuracy")
_PARITY_IMAGES = 8


@dataclass(frozen=True)
class RunResult:
    """Where a run was written, and its last evaluation."""

    directory: RunDirectory
    routed: Evaluation
    oracle: Evaluation


class ContinualRun:
    """A run in the making; its parts are built once, when first needed."""

    def __init__(self, options: RunOptions, console: RunConsole | None = None) -> None:
        self.options = options
        self.console = console or RunConsole(options.quiet)
        self._tests: dict[str, TestClass] = {}
        self._board: TensorBoardLog | None = None
        self.parity: Parity | None = None
        self.logger = logging.getLogger("moleflow_fast")

    # -- what a run is made of -----------------------------------------------------------------------

    @cached_property
    def data_root(self) -> Path:
        if self.options.data_path is None:
            return Path(write_demo(Path(self.options.log_dir) / "demo-data"))
        path = Path(self.options.data_path)
        if self.options.dataset == "demo" and path.is_dir() and not is_demo(path):
            raise UserError(
                f"{path} is not the synthetic demo set; say what it is with --dataset folder (or mvtec, visa, mpdd)"
            )
        return path

    @cached_property
    def layout(self) -> str:
        """Name of the data set class that reads the files."""
        return "folder" if self.options.dataset == "demo" else self.options.dataset

    @cached_property
    def tasks(self) -> list[list[str]]:
        classes = self.options.task_classes or get_class_names(self.layout, self.data_root)
        try:
            return split_into_tasks(list(classes), self.options.cl_scenario)
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def classes(self) -> list[str]:
        return [name for task in self.tasks for name in task]

    @cached_property
    def device(self) -> torch.device:
        if self.options.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.options.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--device {self.options.device} does not work here ({reason}); use cpu or auto") from error
        return device

    @cached_property
    def extractor(self) -> PatchExtractor:
        return self._narrowed(self._full_extractor())

    def _full_extractor(self) -> PatchExtractor:
        try:
            return self._create_extractor(False if self.options.random_backbone else None)
        except WeightsUnavailable as error:
            if self.options.dataset != "demo":
                raise
            self.console.warn(f"{error}\nThe demo goes on with RANDOM backbone weights: expect poor detection.")
            return self._create_extractor(False)

    @cached_property
    def trainer(self) -> MoLEContinualTrainer:
        torch.manual_seed(self.options.seed)
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

    @cached_property
    def scorer(self) -> Scorer:
        options = self.options
        return Scorer(
            self.trainer, options.mask_size, options.score_smooth_sigma, options.interp_mode, options.batch_size
        )

    @cached_property
    def cache(self) -> FeatureCache:
        options = self.options
        return FeatureCache(
            Path(options.cache_dir) if options.cache_dir else None,
            max_bytes=int(options.cache_limit_gb * 2**30),
            device=self.device,
            device_budget_bytes=int(options.device_cache_gb * 2**30),
        )

    # -- the run -------------------------------------------------------------------------------------

    def execute(self) -> RunResult:
        """Train every task, evaluate after each, write everything down."""
        with self._as_chosen():
            return self._execute()

    def evaluate_again(self, directory: RunDirectory) -> tuple[Evaluation, Evaluation]:
        """Routed and oracle evaluation of a finished or interrupted run's last complete task."""
        with self._as_chosen():
            return self._evaluate_again(directory)

    @contextmanager
    def _as_chosen(self) -> Iterator[None]:
        """The backend and the precision of the options."""
        with use_backend(self.options.backend), use_precision(self.options.precision):
            yield

    def _execute(self) -> RunResult:
        self._check()
        directory = RunDirectory.create(self.options)
        with directory.held():
            return self._fill(directory)

    def _fill(self, directory: RunDirectory) -> RunResult:
        self._announce(directory)
        if self.options.tensorboard:
            self._board = TensorBoardLog(directory.path / "tensorboard")
        done = self._restore(directory)
        directory.keep_epochs_of(range(done))
        if done and directory.read_evaluation(done - 1) is None:
            self._evaluate(directory, done - 1)
        if not self.options.final_eval_only:
            for task_id in range(done, len(self.tasks)):
                self._train(directory, task_id)
                self._evaluate(directory, task_id)
        return self._finish(directory)

    def _evaluate_again(self, directory: RunDirectory) -> tuple[Evaluation, Evaluation]:
        self._check_data()
        self.console.say(f"flow           {self._flow}")
        done = checkpoint.load_tasks(directory.checkpoints, self.trainer, self._checkpoint_options)
        self._require_own_classes(directory.checkpoints)
        return evaluate_all_tasks(self.scorer, self._tests_until(done[-1]))

    def _check(self) -> None:
        """Everything that can be wrong before the first file is written."""
        if self.options.tensorboard:
            summary_writer_class()
        for warning in (*self.options.ablation.warnings, *known_bad(self.options)):
            self.console.warn(warning)
        self._check_data()
        if self.options.load_checkpoint and not self.options.resume:
            _ = self._loaded_tasks
        _ = self._flow

    @cached_property
    def _why_plain_flow(self) -> str | None:
        """Why the flow runs in plain PyTorch, None if it is compiled; an error where that was insisted on in vain."""
        features = torch.empty(0, device=self.device)
        reason = self.trainer.nf_model.why_not_compiled(features, None)
        runs_compiled(features, why_not=reason, backend=flow_backend())
        return reason

    @cached_property
    def _flow(self) -> str:
        """What computes the flow, in words; an error where it cannot compute as asked."""
        plain = self._why_plain_flow
        self._check_precision()
        precision = self.options.precision
        if precision == "tf32" and self.device.type == "cpu":
            precision = "fp32 (tf32 is for a GPU)"
        steps = "as CUDA graphs" if self.trainer.steps_are_graphs else "one by one"
        how = f"compiled ({flow_backend()})" if plain is None else f"plain PyTorch: {plain}"
        return f"{how}; precision {precision}, training steps {steps}"

    def _check_precision(self) -> None:
        reason = why_not_precision(self.device.type)
        if reason:
            raise UserError(
                f"--precision {self.options.precision} needs the flow on Triton kernels on a GPU, but {reason}; "
                "add --backend triton where there is a GPU, or take --precision fp32"
            )

    def _check_data(self) -> None:
        report = check_dataset(self.layout, self.data_root, self.classes, num_workers=self.options.num_workers)
        for warning in report.warnings:
            self.console.warn(warning)

    def _announce(self, directory: RunDirectory) -> None:
        data = f"{self.data_root} (synthetic demo set)" if self.options.dataset == "demo" else str(self.data_root)
        self.console.say(f"run directory  {directory.path}")
        self.console.say(f"data           {data}: {len(self.classes)} classes in {len(self.tasks)} tasks")
        self.console.say(
            f"backbone       {self.options.backbone_name}, weights: {self.extractor.weights_origin}, "
            f"patches {self.extractor.embed_dim} wide, on {self.device}"
        )
        if self.parity is not None:
            self.console.say(f"               in {self.parity}")
        self.console.say(f"flow           {self._flow}")

    def _restore(self, directory: RunDirectory) -> int:
        """Bring back the tasks learned before; returns their number."""
        if checkpoint.completed_tasks(directory.checkpoints):
            done = checkpoint.load_tasks(directory.checkpoints, self.trainer, self._checkpoint_options)
            self._require_own_classes(directory.checkpoints)
            self.console.say(f"resumed        after task {done[-1]}")
            return len(done)
        if not self.options.load_checkpoint:
            return 0
        for task_id in self._loaded_tasks:
            checkpoint.save_task(directory.checkpoints, self.trainer, task_id, self._checkpoint_options)
        self.console.say(
            f"loaded         {self.options.load_checkpoint}, tasks {', '.join(map(str, self._loaded_tasks))}"
        )
        return len(self._loaded_tasks)

    @cached_property
    def _loaded_tasks(self) -> list[int]:
        """Tasks that came from `--load_checkpoint`."""
        path = Path(self.options.load_checkpoint or "")
        ours = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        if checkpoint.completed_tasks(ours):
            done = checkpoint.load_tasks(ours, self.trainer, self._checkpoint_options)
            self._require_own_classes(path)
            return done
        done = checkpoint.load_published(path, self.trainer)
        if done != list(range(len(done))) or len(done) > len(self.tasks):
            raise checkpoint.CheckpointError(
                f"{path} holds tasks {', '.join(map(str, done))}, but --task_classes and --cl_scenario make tasks 0 to "
                f"{len(self.tasks) - 1}; name the classes that it was trained on, in order"
            )
        for task_id in done:
            self.trainer.task_classes[task_id] = self.tasks[task_id]
            self.trainer.build_prototype(task_id, self.training_features(self.tasks[task_id]).image_features)
        return done

    def _require_own_classes(self, path: Path) -> None:
        for task_id, classes in self.trainer.task_classes.items():
            asked = self.tasks[task_id] if task_id < len(self.tasks) else []
            if classes != asked:
                raise checkpoint.CheckpointError(
                    f"{path}: task {task_id} learned {', '.join(classes)}, but the options make it "
                    f"{', '.join(asked) or 'nothing'}; give the same --task_classes and --cl_scenario"
                )

    def _train(self, directory: RunDirectory, task_id: int) -> None:
        options, classes = self.options, self.tasks[task_id]
        title = f"task {task_id} {', '.join(classes)}"
        loader = FeatureLoader(self.training_features(classes), options.batch_size, options.seed + task_id)
        records: list[EpochRecord] = []
        with self.console.training(title) as show:

            def listen(record: EpochRecord | BatchRecord) -> None:
                show(record)
                if isinstance(record, EpochRecord):
                    records.append(record)
                    directory.append_epoch(record)
                    if self._board:
                        self._board.epoch(record)

            self.trainer.listener = listen
            self.trainer.train_task(task_id, classes, loader, options.num_epochs, options.lr)
        checkpoint.save_task(directory.checkpoints, self.trainer, task_id, self._checkpoint_options)
        seconds = sum(r.seconds for r in records)
        rate = sum(r.images for r in records) / max(seconds, 1e-9)
        skipped = sum(r.skipped_batches for r in records)
        note = f", {skipped} batches skipped" if skipped else ""
        self.console.say(f"{title}: loss {records[-1].loss:.2f}, {seconds:.1f} s, {rate:.0f} images/s{note}")
        if options.run_diagnostics:
            self._diagnose(directory, task_id, loader)

    def _evaluate(self, directory: RunDirectory, task_id: int) -> None:
        tests = self._tests_until(task_id)
        if not self.trainer.promises_zero_forgetting:
            self.scorer.forget_maps(tests)
        routed, oracle = evaluate_all_tasks(self.scorer, tests)
        directory.write_evaluation(task_id, (routed, oracle))
        if self._board:
            self._board.evaluation(task_id, routed)
            self._board.evaluation(task_id, oracle)
        self.console.evaluation(f"after task {task_id}", routed, oracle)

    def _finish(self, directory: RunDirectory) -> RunResult:
        tasks = self.tasks[: len(self.trainer.task_classes)]
        history = [directory.read_evaluation(t) for t in range(len(tasks))]
        assert history[-1] is not None
        routed, oracle = history[-1]
        under = {
            "routed": _forgetting([pair and pair[0] for pair in history]),
            "oracle": _forgetting([pair and pair[1] for pair in history]),
        }
        if len(tasks) > 1:
            self.console.forgetting(tasks, under)
        _, confusion = evaluate_routing_performance(self.scorer, self._tests_until(len(tasks) - 1))
        self._draw(directory, tasks, confusion)
        directory.write_summary(
            {
                "tasks": tasks,
                "backbone_weights": self.extractor.weights_origin,
                "backbone_parity": None if self.parity is None else asdict(self.parity),
                "routing_confusion": confusion.tolist(),
                "routed": {name: _plain(routed.mean(name)) for name in HEADLINE},
                "oracle": {name: _plain(oracle.mean(name)) for name in HEADLINE},
                "forgetting": {
                    ids: {
                        "per_task": [_plain(value) for value in f.measure],
                        "bwt_per_task": [_plain(value) for value in f.transfer],
                        "mean": _plain(f.mean_measure),
                        "bwt": _plain(f.bwt),
                    }
                    for ids, f in under.items()
                },
            }
        )
        if self._board:
            self._board.close()
        self.console.say(f"written to     {directory.path} (tables, checkpoints, heatmaps/, routing_confusion.png)")
        return RunResult(directory, routed, oracle)

    # -- features ------------------------------------------------------------------------------------

    def training_features(self, classes: list[str]) -> FeatureStore:
        """Features of the training images of a task."""
        indices = {name: i for i, name in enumerate(self.classes)}
        dataset = create_task_dataset(self._data_options, classes, indices, train=True)
        return self._features_of(dataset, f"features {', '.join(classes)} train")

    def _features_of(self, dataset: Any, title: str) -> FeatureStore:
        options = self.options
        with self.console.counting(title) as progress:
            return self.cache.features(
                dataset,
                self.extractor,
                options.batch_size,
                options.num_workers,
                progress,
                enabled=not options.no_feature_cache,
            )

    def _tests_until(self, task_id: int) -> list[TestClass]:
        return [self._test(name, t) for t in range(task_id + 1) for name in self.tasks[t]]

    def _test(self, name: str, task_id: int) -> TestClass:
        if name not in self._tests:
            dataset = self.test_dataset(name)
            labels = torch.tensor([sample.label for sample in dataset.samples])
            masks = torch.stack([dataset.load_mask(i)[0] for i in range(len(dataset))]) if dataset.has_masks else None
            source = self._features_of(dataset, f"features {name} test")
            self._tests[name] = TestClass(name, task_id, source, labels, None if masks is None else masks.bool())
        return self._tests[name]

    def test_dataset(self, name: str) -> Any:
        size = self.options.img_size
        return get_dataset_class(self.layout)(
            self.data_root, name, train=False, img_size=size, crp_size=size, msk_size=self.options.mask_size
        )

    # -- pictures and diagnostics --------------------------------------------------------------------

    def _draw(self, directory: RunDirectory, tasks: list[list[str]], confusion: torch.Tensor) -> None:
        confusion_figure(directory.path / "routing_confusion.png", confusion, tasks)
        if self.options.heatmaps == 0:
            return
        for test in self._tests_until(len(tasks) - 1):
            self._draw_class(directory, test)

    def _draw_class(self, directory: RunDirectory, test: TestClass) -> None:
        ids = self.scorer.route(test)
        patch_maps = self.scorer.patch_maps(test, ids)
        scores = image_scores(patch_maps, self.options.ablation).cpu()
        chosen = choose_images(test.labels, scores, self.options.heatmaps)
        maps = self.scorer.pixel_maps(patch_maps).cpu()
        dataset = self.test_dataset(test.name)
        normal = maps[test.labels == 0]
        coldest = float(torch.quantile(normal.flatten()[:: max(1, normal.numel() // 1_000_000)], 0.5))
        hottest = max(float(maps[chosen].amax()), coldest + 1e-6)
        captions = [
            f"{dataset.samples[i].type}  {scores[i]:.4g}" + (f"  -> task {ids[i]}" if ids[i] != test.task_id else "")
            for i in chosen
        ]
        heatmap_figure(
            directory.heatmaps / f"{test.name}.png",
            f"{test.name}: image score per picture; colours from the median normal pixel to the hottest shown",
            [dataset[i][0] for i in chosen],
            None if test.masks is None else [test.masks[i] for i in chosen],
            maps[chosen],
            captions,
            (coldest, hottest),
        )

    def _diagnose(self, directory: RunDirectory, task_id: int, loader: FeatureLoader) -> None:
        patches, _ = next(iter(loader.epoch(0)))
        write_json(
            directory.path / "diagnostics" / f"task_{task_id}.json", task_diagnostics(self.trainer, task_id, patches)
        )

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
        )

    def _narrowed(self, extractor: PatchExtractor) -> PatchExtractor:
        """The extractor in `--backbone_precision`, compared with fp32 on a few training images."""
        precision = self.options.backbone_precision
        if precision != "fp32":
            labels = dict.fromkeys(self.tasks[0], 0)
            dataset = create_task_dataset(self._data_options, self.tasks[0], labels, train=True)
            images = torch.stack([dataset[i][0] for i in range(min(_PARITY_IMAGES, len(dataset)))])
            self.parity = reduce_precision(extractor, precision, images)
        return extractor

    @cached_property
    def _data_options(self) -> SimpleNamespace:
        options = self.options
        return SimpleNamespace(
            dataset=self.layout,
            data_path=self.data_root,
            img_size=options.img_size,
            msk_size=options.mask_size,
            use_rotation_aug=options.use_rotation_aug,
            rotation_degrees=options.rotation_degrees,
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
    def _checkpoint_options(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the run that loads it."""
        return {**self._model_options, "backbone": self.extractor.fingerprint(), **vars(self.options.ablation)}


def _forgetting(evaluations: Sequence[Evaluation | None]) -> Forgetting:
    """Of image AUROC; tasks that came from a loaded checkpoint have no evaluation of their own."""
    history = [
        [] if e is None else [e.of_task(j, "image_auroc") for j in range(t + 1)] for t, e in enumerate(evaluations)
    ]
    return forgetting(history)


def _plain(value: float) -> float | None:
    """NaN is not JSON."""
    return None if math.isnan(value) else value

