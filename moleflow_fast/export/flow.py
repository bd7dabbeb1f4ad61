"""The flow with the experts of all tasks in it: images of several tasks in one pass, chosen by data."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moleflow_fast.export.adapters import adapter_by_image
from moleflow_fast.export.by_image import chosen, experts_by_image, linear_layers_by_image, places_of_images
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.ops.density import patch_nll


class FlowOfAllTasks(nn.Module):
    """-log p of patches, each image under its own expert.

    Args:
        model: frozen; nothing of it is changed.
        task_ids: the tasks, in the order that their places count.
    """

    def __init__(self, model: MoLESpatialAwareNF, task_ids: Sequence[int]) -> None:
        super().__init__()
        keys = [str(t) for t in task_ids]
        adapters = [model.input_adapters[key] for key in keys if key in model.input_adapters]
        task_flows = [model.dia_adapters[key] for key in keys if key in model.dia_adapters]
        self.adapter = adapter_by_image(adapters) if adapters else None
        self.mixer = copy.deepcopy(model.spatial_mixer)
        self.base: nn.Module = experts_by_image(model.flow, task_ids)
        if model.task_flows:
            flows = ((key, flow) for key, flow in model.task_flows.items() if key in keys)
            own = {keys.index(key): experts_by_image(flow, task_ids) for key, flow in flows}
            self.base = _SeparateFlows(self.base, own)
        self.dia = linear_layers_by_image(task_flows) if task_flows else None

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """x (B, H, W, D) with positions, places (B,) int64 -> (B, H, W)."""
        with chosen(places):
            x = x if self.adapter is None else self.adapter(x)
            x = x if self.mixer is None else self.mixer(x)
            z, logdet = self.base(x)
            if self.dia is not None:
                z, own_logdet = self.dia(z)
                logdet = logdet + own_logdet
        return patch_nll(z, logdet)


class _SeparateFlows(nn.Module):
    """A whole flow per task (`use_task_separated`): every flow sees every image, and each image takes its own's."""

    def __init__(self, first: nn.Module, others: dict[int, nn.Module]) -> None:
        super().__init__()
        self.first = first
        self.places = list(others)
        self.others = nn.ModuleList(others.values())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, logdet = self.first(x)
        for place, flow in zip(self.places, self.others, strict=True):
            own_z, own_logdet = flow(x)
            own = (places_of_images() == place)[:, None, None]
            z, logdet = torch.where(own[..., None], own_z, z), torch.where(own, own_logdet, logdet)
        return z, logdet
