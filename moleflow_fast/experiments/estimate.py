"""How long a plan takes on this machine: a few steps of every shape among its runs, measured, times their number."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.config.option import Scope, Work, options_in
from moleflow_fast.config.options import RunOptions
from moleflow_fast.config.scenario import split_into_tasks
from moleflow_fast.experiments.sweep_plan import PlannedRun
from moleflow_fast.experiments.sweep_view import duration
from moleflow_fast.extractors.stores import TensorStore
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run
from moleflow_fast.run.task_training import trainer_of
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader

# Classes, training and test images, for plans without the data at hand: Bergmann et al., CVPR 2019; Zou et al., ECCV
# 2022 (split 1cls); Jezek et al., ICUMT 2021.
PUBLISHED_SIZES = {"mvtec": (15, 3629, 1725), "visa": (12, 8659, 2162), "mpdd": (6, 888, 458)}
_CPU_STEPS, _GPU_STEPS = 1, 20  # a CPU step takes seconds; a GPU's are captured first and too short alone


@dataclass(frozen=True)
class Costs:
    """Seconds an image: the backbone once, a training epoch of the first and of a later task, scoring."""

    backbone: float
    first_task: float
    later_task: float
    scoring: float


@dataclass(frozen=True)
class Size:
    """Images of a run."""

    train_by_task: tuple[int, ...]
    test: int


@dataclass(frozen=True)
class Estimate:
    """Seconds that runs take one after another on the machine that was measured.

    Training and scoring from cached features; decoding, metrics and pictures are not in it.
    """

    runs: int
    shapes: int
    backbone: float
    flow: float

    def __str__(self) -> str:
        return (
            f"estimate       {self.runs} runs of {self.shapes} shapes, one after another on this machine: "
            f"{duration(self.flow)} of training and scoring, {duration(self.backbone)} of backbone, measured here; "
            "decoding, metrics and pictures are not counted"
        )


def estimate(runs: Sequence[PlannedRun], progress: Callable[[int, int], None]) -> Estimate:
    """Measure every shape among the runs; `progress(done, shapes)` is called after each."""
    sizes = {run.identity: size_of(run.options) for run in runs}
    shapes = {run.identity: shape_of(run.options) for run in runs}
    costs: dict[RunOptions, Costs] = {}
    for shape in dict.fromkeys(shapes.values()):
        costs[shape] = measure(shape)
        progress(len(costs), len(set(shapes.values())))
    distinct = {_features(run.options): run.identity for run in runs}
    backbone = sum(_images(sizes[i]) * costs[shapes[i]].backbone for i in distinct.values())
    flow = sum(flow_seconds(run.options, sizes[run.identity], costs[shapes[run.identity]]) for run in runs)
    return Estimate(len(runs), len(costs), backbone, flow)


def flow_seconds(options: RunOptions, size: Size, costs: Costs) -> float:
    """Training and scoring of a run from cached features."""
    used = [_in_whole_batches(n, options.batch_size) for n in size.train_by_task]
    epoch = costs.first_task * used[0] + costs.later_task * sum(used[1:])
    return options.num_epochs * epoch + costs.scoring * size.test


def shape_of(options: RunOptions) -> RunOptions:
    """Options with all that leaves a run's time as it is at its default: equal shapes take equal steps."""
    ablation = replace(options.ablation, **_free(_PLAIN.ablation))
    return replace(options, **{**_free(_PLAIN), "random_backbone": True, "ablation": ablation})


def measure(shape: RunOptions) -> Costs:
    """Time a shape here, on random images and features."""
    with tempfile.TemporaryDirectory() as place:
        context = RunContext(replace(shape, log_dir=place), RunConsole(quiet=True))
        with context.as_chosen():
            return _measured(Run(context))


def _measured(run: Run) -> Costs:
    size, batch = run.options.img_size, run.options.batch_size
    steps = _CPU_STEPS if run.device.type == "cpu" else _GPU_STEPS
    images = torch.randn(batch, 3, size, size, device=run.device)
    backbone, patches = _timed(lambda: run.extractor(images))
    store = _random_features(patches, steps * batch)
    loader = FeatureLoader(store, batch, seed=0)
    trainer = trainer_of(run)
    first, later = (_epoch_seconds(trainer, task, loader) / len(store) for task in (0, 1))
    ids = torch.ones(batch, dtype=torch.long, device=run.device)
    scoring, _ = _timed(lambda: run.moleflow.anomaly_maps(patches, ids))
    return Costs(backbone / batch, first, later, scoring / batch)


def size_of(options: RunOptions) -> Size:
    """Counted where the data are, published elsewhere.

    Raises:
        UserError: neither can be had.
    """
    published = PUBLISHED_SIZES.get(options.dataset)
    if published is None or (options.data_path is not None and Path(options.data_path).is_dir()):
        return _counted(options)
    classes, train, test = published
    names = list(options.task_classes or map(str, range(classes)))
    tasks = split_into_tasks(names, options.cl_scenario)
    share = len(names) / classes
    return Size(tuple(round(train * len(task) / classes) for task in tasks), round(test * share))


def _counted(options: RunOptions) -> Size:
    run = Run(RunContext(options))
    images = run.images
    train = tuple(len(images.items_of(images.training(task))) for task in run.tasks)
    return Size(train, sum(len(images.items_of(images.test(name))) for name in run.tasks.classes))


def _epoch_seconds(trainer: MoLEContinualTrainer, task: int, loader: FeatureLoader) -> float:
    """Of the second epoch: the first one compiles, captures and fills caches."""
    return trainer.train_task(task, [str(task)], loader, 2, trainer.args.lr)[-1].seconds


def _timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of a second call, results read back."""
    with torch.no_grad():
        work()[0, 0].cpu()
        started = time.perf_counter()
        result = work()
        result[0, 0].cpu()
    return time.perf_counter() - started, result


def _random_features(like: Tensor, count: int) -> TensorStore:
    generator = torch.Generator(like.device).manual_seed(0)
    patches = torch.randn(count, *like.shape[1:], device=like.device, generator=generator)
    return TensorStore(patches, patches.mean((1, 2)), like.device, "device")


def _in_whole_batches(images: int, batch_size: int) -> int:
    return images if images < batch_size else images // batch_size * batch_size


def _images(size: Size) -> int:
    return sum(size.train_by_task) + size.test


def _features(options: RunOptions) -> tuple[object, ...]:
    images = (options.dataset, options.data_path, options.img_size)
    layers = (options.backbone_layers, options.vit_blocks, options.use_high_res, options.embed_dim)
    return (*images, options.backbone_name, options.backbone_precision, *layers)


def _free(plain: RunOptions | AblationConfig) -> dict[str, Any]:
    """Options that change the numbers of a run or its name, but not its time, as they are in `plain`."""
    options = options_in(type(plain)).items()
    return {n: getattr(plain, n) for n, option in options if option.work is Work.NONE or option.scope is Scope.RUN}


_PLAIN = RunOptions()
