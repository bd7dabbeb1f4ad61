"""A run's kernels, compiled beside it while it makes features."""

from __future__ import annotations

import torch

from moleflow_fast.backend import use_backend
from moleflow_fast.precompile.background import Precompilation
from moleflow_fast.run.run import Run
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer


def precompilation(run: Run, trainer: MoLEContinualTrainer) -> Precompilation | None:
    """Begins now; None where the flow of the run launches no kernels."""
    if not trainer.steps_are_graphs:
        return None
    major, minor = torch.cuda.get_device_capability(run.device)
    from moleflow_fast.kernels.ways import current_table  # it needs Triton, which a CPU does not

    return Precompilation(
        run.options,
        run.extractor.embed_dim,
        lambda: _grid(run),
        10 * major + minor,
        current_table(run.device),
        run.console,
    )


def _grid(run: Run) -> tuple[int, int]:
    """Patches of an image, (H, W)."""
    image = torch.zeros(1, 3, run.options.img_size, run.options.img_size)
    with use_backend("eager"):  # nothing that would have to be compiled
        _, height, width, _ = run.extractor(image).shape
    return height, width
