"""A training step as the trainer runs it, without features or epochs around it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

from moleflow_fast.engine.training import DeviceSteps
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer


class TrainingStep:
    """A step of `task`'s first stage on patches (B, H, W, D); the tasks up to it have begun.

    Args:
        device: where `model` and the patches are.
    """

    def __init__(self, model: MoLESpatialAwareNF, task: int, device: torch.device | str) -> None:
        self._trainer = MoLEContinualTrainer(
            None, PositionalEmbeddingGenerator(device), model, SimpleNamespace(seed=0), device
        )
        for task_id in range(task + 1):
            self._trainer._begin_task(task_id)
        self._task, self._stage = task, self._trainer._stages(task, 1, 1e-3)[0]
        self._trainer._begin(task, self._stage)
        model.train()

    def run(self, patches: torch.Tensor) -> None:
        self._trainer._start_step(self._task, self._stage, patches)

    def body(self, patches: torch.Tensor) -> Callable[[torch.Tensor], object]:
        """What a GPU replays for patches of this shape, after the first step on them."""
        assert isinstance(self._stage.steps, DeviceSteps)
        return self._stage.steps._steps[patches.shape]._body
