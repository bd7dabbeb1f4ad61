"""The modules that act for a task, in the order in which its patches go through them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from moleflow_fast.models.coupling import CouplingFlow
from moleflow_fast.models.dia import DeepInvertibleAdapter
from moleflow_fast.models.spatial_mixer import SpatialContextMixer


@dataclass(frozen=True)
class FlowModules:
    """A base flow, the task whose LoRA acts in it, and that task's own flow."""

    base: CouplingFlow
    task_id: int | None
    dia: DeepInvertibleAdapter | None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, H, W, D) and log|det| (B, H, W) of x (B, H, W, D), under the task that is active in the modules."""
        z, logdet = self.base(x)
        if self.dia is None:
            return z, logdet
        z, own_logdet = self.dia(z)
        return z, logdet + own_logdet

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, H, W, D) and the inverse's log|det| (B, H, W), as `forward`."""
        if self.dia is None:
            return self.base(z, reverse=True)
        z, own_logdet = self.dia(z, reverse=True)
        x, logdet = self.base(z, reverse=True)
        return x, own_logdet + logdet


@dataclass(frozen=True)
class Expert:
    """All modules of a task: what conditions its patches, and its flow."""

    adapter: nn.Module | None
    mixer: SpatialContextMixer | None
    flow: FlowModules

    def condition(self, x: Tensor) -> Tensor:
        """What the flow takes in of patches x, both (B, H, W, D)."""
        if self.adapter is not None:
            x = self.adapter(x)
        return x if self.mixer is None else self.mixer(x)
