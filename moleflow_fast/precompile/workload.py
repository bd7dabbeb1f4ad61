"""What a run launches: training of a first and a later task, inference, pixel maps; on meta tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.backend import use_backend, use_precision
from moleflow_fast.config.options import RunOptions
from moleflow_fast.engine.captured import LARGEST
from moleflow_fast.evaluation.scorer import Scorer
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader

_META = torch.device("meta")
_TASKS = 2  # the first and a later one: those after it launch the same


@dataclass(frozen=True)
class Workload:
    """A run as far as it decides which kernels there are.

    Attributes:
        dim: channels of a patch.
        grid: patches of an image, (H, W).
    """

    options: RunOptions
    dim: int
    grid: tuple[int, int]

    def run(self) -> None:
        """Everything once; tensors are empty."""
        options = self.options
        with use_backend("triton"), use_precision(options.precision):
            trainer = self._trainer()
            for task_id in range(_TASKS):
                loader = FeatureLoader(_Features(options.batch_size, self.grid, self.dim), options.batch_size, seed=0)
                trainer.train_task(task_id, [f"class {task_id}"], loader, self._epochs, options.lr)
                self._infer(trainer)

    @property
    def _epochs(self) -> int:
        """As few as go through each stage of training."""
        return min(self.options.num_epochs, 2 if self.options.enable_slow_stage else 1)

    def _trainer(self) -> MoLEContinualTrainer:
        options = self.options
        model = MoLESpatialAwareNF(
            self.dim,
            options.num_coupling_layers,
            lora_rank=options.lora_rank,
            lora_alpha=options.lora_alpha,
            device=_META,
            ablation_config=options.ablation,
        )
        return _Trainer(
            lambda patches: patches,
            PositionalEmbeddingGenerator(_META),
            model,
            options,
            _META,
            options.slow_lr_ratio,
            options.slow_blocks_k,
            logger=_nobody(),
        )

    def _infer(self, trainer: MoLEContinualTrainer) -> None:
        options = self.options
        scorer = Scorer(
            trainer.moleflow, options.mask_size, options.score_smooth_sigma, options.interp_mode, options.batch_size
        )
        for images in _batch_sizes():
            patches = torch.empty(images, *self.grid, self.dim, device=_META)
            scorer.pixel_maps(trainer.moleflow.routed(patches).maps)


def _nobody() -> logging.Logger:
    """Takes what a trainer says of losses that nobody computed."""
    logger = logging.getLogger(__name__)
    logger.disabled = True
    return logger


def _batch_sizes() -> Iterator[int]:
    """Those that are captured, and one that 2 does not divide, as the last of an evaluation may be."""
    yield 3
    yield from (1 << power for power in range(LARGEST.bit_length()))


class _Features:
    """A source of as many images as a batch has."""

    def __init__(self, images: int, grid: tuple[int, int], dim: int) -> None:
        self.patches = torch.empty(images, *grid, dim, device=_META)

    def __len__(self) -> int:
        return len(self.patches)

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in index_batches:
            yield self.patches, self.patches.mean((1, 2))


class _Trainer(MoLEContinualTrainer):
    def build_prototype(self, task_id: int, image_features: Tensor) -> None:
        """Only as many finite rows as there are decide its shape, and a meta tensor cannot say how many."""
        prototype = self.router.new_prototype(task_id, self.task_classes.get(task_id))
        prototype.update(image_features)
        self.router.add_prototype(prototype)

    def _fit_front(self, task_id: int, batches: Any) -> None:
        """Its estimation launches none of our kernels, and looks at values, of which there are none."""
        if (front := self.nf_model.front(task_id)) is not None:
            front.allocate(*next(batches.patches()).shape[1:3])
