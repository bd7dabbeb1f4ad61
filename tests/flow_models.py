"""Small models away from their starting values, and features for them."""

from dataclasses import replace
from functools import partial

import torch

from moleflow_fast.config import AblationConfig
from moleflow_fast.config.switches import ADAPTER_MODES, SPATIAL_CONTEXT_MODES
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

FULL = AblationConfig()
PLAIN = replace(FULL, use_scale_context=False)
CONFIGS = {
    "default": FULL,
    "four_task_blocks": replace(FULL, dia_n_blocks=4, dia_hidden_ratio=0.3),
    "no_dia": replace(FULL, use_dia=False),
    "no_lora": replace(FULL, use_lora=False),
    "no_task_bias": replace(FULL, use_task_bias=False),
    "no_adapter": replace(FULL, use_task_adapter=False),
    "no_mixer": replace(FULL, use_spatial_context=False),
    "context_5": replace(FULL, scale_context_kernel=5),
    "no_scale_context": PLAIN,
    "regular_linear": replace(PLAIN, use_regular_linear=True),
    "task_separated": replace(FULL, use_task_separated=True),
    **{f"adapter_{m}": replace(FULL, adapter_mode=m, use_whitening_adapter=m == "whitening") for m in ADAPTER_MODES},
    **{f"mixer_{m}": replace(FULL, spatial_context_mode=m) for m in SPATIAL_CONTEXT_MODES},
}


def make_model(config: AblationConfig = FULL, dim: int = 20, blocks: int = 3, rank: int = 3) -> MoLESpatialAwareNF:
    """Two tasks, every parameter away from its starting value; Gaussian fronts of the grid of `features`."""
    torch.manual_seed(5)
    model = MoLESpatialAwareNF(dim, blocks, lora_rank=rank, ablation_config=config).double()
    model.add_task(0)
    model.add_task(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    fit_fronts(model, (4, 5))
    return model


def fit_fronts(model: MoLESpatialAwareNF, grid: tuple[int, int]) -> None:
    """Give the Gaussian fronts of all tasks, if they have any, something to be estimated from."""
    for task_id in model.task_ids:
        if (front := model.front(task_id)) is not None:
            torch.manual_seed(50 + task_id)
            mixing = torch.randn(model.embed_dim, model.embed_dim)
            patches = (1 + task_id + torch.randn(9, *grid, model.embed_dim) @ mixing).to(front.whitener)
            front.fit(partial(iter, [patches]))


def features(images: int = 3, height: int = 4, width: int = 5, dim: int = 20) -> torch.Tensor:
    return torch.randn(images, height, width, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
