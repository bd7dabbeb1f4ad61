"""What is timed: training steps and inference of the baseline flow, on random features and random weights.

Speed depends on neither. MOLEFLOW_BENCH_SMALL=1 shrinks everything, to see that the benchmarks run; its timings
mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from backends import running
from counts import FeatureMap, Flow, Work, patch_pooling
from published import PublishedInference, PublishedTraining, published_extractor, published_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.extractors import CNNPatchCoreExtractor, create_feature_extractor
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

SMALL = os.environ.get("MOLEFLOW_BENCH_SMALL", "0") != "0"
LEARNING_RATE, EPOCHS = 2e-4, 60
TASKS = 3  # known at inference

Inference = Callable[[], tuple[Tensor, Tensor, Tensor]]


def baseline_flow(dim: int) -> Flow:
    """8 coupling blocks, 4 DIA blocks, rank 64."""
    return Flow(64, blocks=2, dia_blocks=1, rank=4) if SMALL else Flow(dim, blocks=8, dia_blocks=4, rank=64)


def make_trainer(flow: Flow, tasks: int, extractor: object = None) -> MoLEContinualTrainer:
    """A trainer on the CPU whose last of `tasks` tasks has just begun; experts are away from their zeros."""
    torch.manual_seed(0)
    config = AblationConfig(dia_n_blocks=flow.dia_blocks)
    model = MoLESpatialAwareNF(flow.dim, flow.blocks, lora_rank=flow.rank, ablation_config=config)
    trainer = MoLEContinualTrainer(extractor, PositionalEmbeddingGenerator("cpu"), model, SimpleNamespace(seed=0))
    for task_id in range(tasks):
        trainer._begin_task(task_id)
        with torch.no_grad():
            for parameter in model.get_fast_params(task_id):
                parameter.add_(0.003 * torch.randn_like(parameter))
    return trainer


# Training


@dataclass(frozen=True)
class StepCase:
    """One optimizer step."""

    name: str
    images: int
    side: int  # patches a side
    task_id: int

    @property
    def tokens(self) -> int:
        return self.images * self.side**2

    @property
    def flow(self) -> Flow:
        return baseline_flow(768)

    @property
    def work(self) -> Work:
        return self.flow.training_step(self.tokens, base_trains=self.task_id == 0)

    def patches(self) -> Tensor:
        """(B, H, W, D)."""
        return torch.randn(self.images, self.side, self.side, self.flow.dim)


STEP_CASES = {
    case.name: case
    for case in (
        StepCase("first task, 28x28", 2 if SMALL else 16, 6 if SMALL else 28, task_id=0),
        StepCase("later task, 28x28", 2 if SMALL else 16, 6 if SMALL else 28, task_id=1),
        StepCase("later task, 56x56", 1 if SMALL else 4, 12 if SMALL else 56, task_id=1),
    )
}


def training_step(case: StepCase, backend: str) -> Callable[[Tensor], float]:
    """patches -> loss, with one optimizer step: the trainer's own, or the published one."""
    task_id = case.task_id
    trainer = make_trainer(case.flow, task_id + 1)
    model = trainer.nf_model
    stage = trainer._stages(task_id, EPOCHS, LEARNING_RATE)[0]
    stage.begin(model)
    stage.set_rate(0)
    model.train()
    if backend == "published":
        return PublishedTraining(published_model(model), task_id, LEARNING_RATE).step
    if backend == "compile":
        model.compile()

    def step(patches: Tensor) -> float:
        with running(backend):
            return trainer._step(task_id, stage, patches)

    return step


# Inference


@dataclass(frozen=True)
class Backbone:
    name: str
    dim: int
    layers: Sequence[str] | None = None  # None: the family's default


BACKBONES = {
    b.name: b
    for b in (Backbone("wide_resnet50_2", 768), Backbone("mobilenetv2_100", 256, ("blocks.2", "blocks.4")))
}
IMAGE_SIZE = 64 if SMALL else 224


def inference(backbone: Backbone, images: Tensor, backend: str) -> tuple[Inference, Work]:
    """`() -> maps, scores, task ids` of images (B, 3, S, S), and the work it takes.

    Three tasks are known, the router is on, and every image is of the second: a test class at once.
    """
    flow = baseline_flow(backbone.dim)
    shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    extractor = create_feature_extractor(
        backbone.name, shape, flow.dim, "cpu", layers=backbone.layers, pretrained=False
    )
    assert isinstance(extractor, CNNPatchCoreExtractor)
    trainer = make_trainer(flow, TASKS, extractor)
    trainer.nf_model.requires_grad_(False)
    trainer.nf_model.eval()
    features = extractor.get_image_level_features(images)
    for task_id in range(TASKS):
        trainer.build_prototype(task_id, features.mean(0) + (task_id - 1) + 0.1 * torch.randn(64, flow.dim))
    work = _inference_work(flow, extractor, images)
    if backend == "published":
        model = published_model(trainer.nf_model)
        published = PublishedInference(published_extractor(extractor, IMAGE_SIZE), model, trainer.router)
        return lambda: published(images), work
    if backend == "compile":
        trainer.nf_model.compile()

    def run() -> tuple[Tensor, Tensor, Tensor]:
        with running(backend):
            return trainer.inference(images)

    return run, work


def _inference_work(flow: Flow, extractor: CNNPatchCoreExtractor, images: Tensor) -> Work:
    """One backbone pass over the images, pooling, and the flow."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        outputs = extractor._capture(images)
    backbone = Work(counter.get_total_flops() / 2)
    maps = [FeatureMap(*output.shape[1:]) for output in outputs]
    tokens = len(images) * maps[0].height * maps[0].width
    return backbone + patch_pooling(len(images), maps, flow.dim) + flow.inference(tokens)
