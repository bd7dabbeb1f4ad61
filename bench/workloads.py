"""What is timed: training steps and inference of the baseline flow, on random features and random weights.

Speed depends on neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace

import torch
from backends import arranged, arrangement, precision, running
from counts import FLOAT, FeatureMap, Flow, Work, patch_pooling
from device import DEVICE, ON_GPU, SMALL, finished
from published import (
    PublishedExtractor,
    PublishedInference,
    PublishedTraining,
    published_extractor,
    published_model,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.data.normalization import Normalization
from moleflow_fast.extractors import CNNPatchCoreExtractor, create_feature_extractor
from moleflow_fast.models.expert import FlowModules
from moleflow_fast.models.flow_runner import FlowRunner, PlainFlowRunner
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.packing.compiled_runner import CompiledFlowRunner
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

LEARNING_RATE, EPOCHS = 2e-4, 60
TASKS = 3  # known at inference

Inference = Callable[[], tuple[Tensor, Tensor, Tensor]]


def baseline_flow(dim: int) -> Flow:
    """8 coupling blocks, 4 DIA blocks, rank 64."""
    return Flow(64, blocks=2, dia_blocks=1, rank=4) if SMALL else Flow(dim, blocks=8, dia_blocks=4, rank=64)


def make_trainer(flow: Flow, tasks: int, extractor: object = None) -> MoLEContinualTrainer:
    """A trainer whose last of `tasks` tasks has just begun; experts are away from their zeros."""
    torch.manual_seed(0)
    config = AblationConfig(dia_n_blocks=flow.dia_blocks)
    model = MoLESpatialAwareNF(flow.dim, flow.blocks, lora_rank=flow.rank, device=DEVICE, ablation_config=config)
    positions = PositionalEmbeddingGenerator(DEVICE)
    trainer = MoLEContinualTrainer(extractor, positions, model, SimpleNamespace(seed=0), DEVICE)
    for task_id in range(tasks):
        trainer._begin_task(task_id)
        with torch.no_grad():
            for parameter in model.get_fast_params(task_id):
                parameter.add_(0.003 * torch.randn_like(parameter))
    return trainer


def runner(backend: str) -> FlowRunner:
    """What runs the flow as `backend` arranges it."""
    return RunnerOfTorch(backend) if arrangement(backend) == "compile" else CompiledFlowRunner()


class RunnerOfTorch(PlainFlowRunner):
    """The modules, compiled by torch."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self._map = arranged(FlowModules.forward, backend)

    def forward(self, flow: FlowModules, x: Tensor) -> tuple[Tensor, Tensor]:
        with self._active(flow):
            return self._map(flow, x)


# Training


@dataclass(frozen=True)
class StepCase:
    """One optimizer step."""

    name: str
    images: int
    side: int  # patches a side
    task_id: int
    flow: Flow

    @property
    def tokens(self) -> int:
        return self.images * self.side**2

    def work(self, backend: str) -> Work:
        return self.flow.training_step(self.tokens, self.task_id == 0, operand_bytes(backend))

    def patches(self) -> Tensor:
        """(B, H, W, D)."""
        return torch.randn(self.images, self.side, self.side, self.flow.dim, device=DEVICE)


def operand_bytes(backend: str) -> int:
    """Of a value that products read."""
    return 2 if precision(backend) == "bf16" else FLOAT


def _step_cases() -> list[StepCase]:
    flow = baseline_flow(768)
    images, side = (2, 6) if SMALL else (16, 28)
    cases = [
        StepCase("first task, 28x28", images, side, 0, flow),
        StepCase("later task, 28x28", images, side, 1, flow),
        StepCase("later task, 28x28, DIA only", images, side, 1, replace(flow, blocks=0)),
        StepCase("later task, 56x56", 1 if SMALL else 4, 2 * side, 1, flow),
    ]
    return [*cases, StepCase("later task, 56x56, full batch", images, 2 * side, 1, flow)] if ON_GPU else cases


STEP_CASES = {case.name: case for case in _step_cases()}


class TrainingSteps:
    """Optimizer steps of one task on patches, each done when the call returns: the trainer's own, or published ones."""

    def __init__(self, case: StepCase, backend: str) -> None:
        self._backend = backend
        self._trainer = make_trainer(case.flow, case.task_id + 1)
        model = self._trainer.nf_model
        self._stage = self._trainer._stages(case.task_id, EPOCHS, LEARNING_RATE)[0]
        model.runner = runner(backend)
        with running(backend):
            self._trainer._begin(case.task_id, self._stage)
        self._stage.set_rate(0)
        model.train()
        self._step: Callable[[Tensor], object] = partial(self._trainer._start_step, case.task_id, self._stage)
        self._params = self._stage.params
        if arrangement(backend) == "published":
            published = PublishedTraining(published_model(model), case.task_id, LEARNING_RATE)
            published.model.forward = arranged(published.model.forward, backend)  # type: ignore[method-assign]
            self._step = self._stage.steps  # which count what the published step returns
            self._stage.steps._step = published.step  # type: ignore[attr-defined]
            self._params = published.params

    def __call__(self, patches: Tensor) -> None:
        with running(self._backend):
            finished(self._step)(patches)

    def count(self) -> tuple[int, int]:
        """Steps since the last call: how many counted, and how many were skipped for a loss that is not finite."""
        return self._stage.steps.finish()[1:]

    def begin_again(self) -> None:
        """As before the first step, but for moments and compiled code: no gradients and no captured graph."""
        self.count()  # which is when the optimizer learns of steps on the device
        self._stage.steps.release()
        for parameter in self._params:
            parameter.grad = None


# Inference


@dataclass(frozen=True)
class Backbone:
    name: str
    dim: int
    layers: Sequence[str] | None = None  # None: the family's default


BACKBONES = {
    b.name: b for b in (Backbone("wide_resnet50_2", 768), Backbone("mobilenetv2_100", 256, ("blocks.2", "blocks.4")))
}
IMAGE_SIZE = 64 if SMALL else 224


def inference(backbone: Backbone, images: Tensor, backend: str) -> tuple[Inference, Work]:
    """`() -> maps, scores, task ids` of images (B, 3, S, S), uint8 on the device, and the work it takes.

    Three tasks are known, the router is on, and every image is of the second: a test class at once.
    """
    dtype = torch.bfloat16 if precision(backend) == "bf16" else torch.float32
    flow, extractor = baseline_flow(backbone.dim), _extractor(backbone.name, dtype)
    trainer = make_trainer(flow, TASKS, extractor)
    model = trainer.nf_model.requires_grad_(False)
    model.eval()
    normalised = Normalization().to(DEVICE)(images)
    with running(backend):
        features = extractor.get_image_level_features(normalised).mean(0)
    for task_id in range(TASKS):
        spread = 0.1 * torch.randn(64, flow.dim, device=DEVICE)
        trainer.build_prototype(task_id, features + (task_id - 1) + spread)
    score: Callable[[Tensor], object] = trainer.inference
    if arrangement(backend) == "published":
        score = _published_inference(trainer, backend)
    else:
        model.runner = runner(backend)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        with running(backend):
            return finished(score)(images)

    return run, _inference_work(flow, extractor, normalised, operand_bytes(backend))


@cache
def _extractor(name: str, dtype: torch.dtype = torch.float32) -> CNNPatchCoreExtractor:
    """With random weights; it is frozen, so benchmarks can share it."""
    backbone, shape = BACKBONES[name], (3, IMAGE_SIZE, IMAGE_SIZE)
    dim = baseline_flow(backbone.dim).dim
    extractor = create_feature_extractor(name, shape, dim, DEVICE, layers=backbone.layers, pretrained=False)
    assert isinstance(extractor, CNNPatchCoreExtractor)
    return extractor.to(dtype)


@cache
def _published_extractor(name: str) -> PublishedExtractor:
    return published_extractor(_extractor(name), IMAGE_SIZE)


def _published_inference(trainer: MoLEContinualTrainer, backend: str) -> PublishedInference:
    model = published_model(trainer.nf_model)
    model.forward = arranged(model.forward, backend)  # type: ignore[method-assign]
    return PublishedInference(_published_extractor(trainer.extractor.backbone_name), model, trainer.router)


def _inference_work(flow: Flow, extractor: CNNPatchCoreExtractor, images: Tensor, operand: int) -> Work:
    """One backbone pass over the images, pooling, and the flow."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        outputs = extractor._capture(images[:1].to(extractor.dtype))
    backbone = Work(counter.get_total_flops() / 2) * len(images)
    maps = [FeatureMap(*output.shape[1:]) for output in outputs]
    tokens = len(images) * maps[0].height * maps[0].width
    return backbone + patch_pooling(len(images), maps, flow.dim) + flow.inference(tokens, operand)
