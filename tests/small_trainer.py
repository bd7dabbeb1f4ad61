"""Small trainers on random features: the trainer never sees where features come from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from moleflow_fast.config import AblationConfig
from moleflow_fast.extractors.stores import TensorStore
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader

DIM, GRID = 16, (4, 5)


class TensorSource(TensorStore):
    """Features (n, H, W, D) held as a run holds them, on their device."""

    def __init__(self, patches: torch.Tensor) -> None:
        super().__init__(patches, patches.mean((1, 2)), patches.device, "device")


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
