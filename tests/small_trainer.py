"""Small trainers on random features: the trainer never sees where features come from."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from moleflow_fast.config import AblationConfig
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader

DIM, GRID = 16, (4, 5)


class TensorSource:
    """Features held in a tensor (n, H, W, D)."""

    def __init__(self, patches: torch.Tensor) -> None:
        self.patches = patches
        self.image_features = patches.mean((1, 2))

    def __len__(self) -> int:
        return len(self.patches)

    def batches(self, index_batches: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index in index_batches:
            yield self.patches[index], self.image_features[index]


def task_features(task: int, images: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + task)
    centre = torch.randn(1, 1, 1, DIM, generator=generator) * 2
    return centre + torch.randn(images, *GRID, DIM, generator=generator)


def make_trainer(
    config: AblationConfig | None = None, seed: int = 0, device: str = "cpu", **args: Any
) -> MoLEContinualTrainer:
    torch.manual_seed(seed)
    layers = args.pop("coupling_layers", 2)
    model = MoLESpatialAwareNF(DIM, layers, lora_rank=3, ablation_config=config or AblationConfig())
    return MoLEContinualTrainer(
        lambda images: images.permute(0, 2, 3, 1),
        PositionalEmbeddingGenerator(device),
        model.to(device),
        SimpleNamespace(seed=seed, **args),
        device,
    )


def train(
    trainer: MoLEContinualTrainer, task: int, epochs: int = 3, images: int = 9, batch_size: int = 4, device: str = "cpu"
) -> list:
    source = TensorSource(task_features(task, images).to(device))
    loader = FeatureLoader(source, batch_size, seed=trainer.seed + task)
    return trainer.train_task(task, [f"class{task}"], loader, epochs, lr=1e-2)

