"""What the flow does to a batch of a task: the numbers to look at when training misbehaves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.ops.density import patch_nll


@torch.no_grad()
def task_diagnostics(moleflow: MoLEFlow, task_id: int, patches: Tensor) -> dict[str, Any]:
    """Densities, log-determinants and the norm of each expert part on patches (B, H, W, D)."""
    model = moleflow.flow
    model.set_active_task(task_id)
    x = moleflow.add_positions(patches)
    z, logdet = model(x)
    return {
        "task_id": task_id,
        "feature_std": float(x.std()),
        "flow_input_std": float(model.condition(x, task_id).std()),
        "z_square_per_channel": float((z**2).mean()),
        "nll_per_patch": float(patch_nll(z, logdet).mean()),
        "logdet_mean": float(logdet.mean()),
        "logdet_std": float(logdet.std()),
        "expert_norms": {
            name: float(parameter.norm())
            for name, parameter in model.named_parameters()
            if any(parameter is p for p in model.get_fast_params(task_id))
        },
    }
