"""Input adapters: each task's own normalisation of the features before the shared flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moleflow_fast.config.switches import ADAPTER_MODES
from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.models.spatial_mixer import SpatialContextMixer
from moleflow_fast.models.statistics import FeatureStatistics
from moleflow_fast.ops.whitening import whitening

__all__ = [
    "FeatureStatistics",
    "GaussianFront",
    "SoftLNTaskInputAdapter",
    "SpatialContextMixer",
    "TaskInputAdapter",
    "WhiteningAdapter",
    "WhiteningAdapterNoLN",
    "create_task_adapter",
]


class _ReferenceStatistics(nn.Module):
    """Carries the reference statistics: their values never enter the computation, only whether there are any."""

    reference_mean: Tensor
    reference_std: Tensor

    def _register_reference(self, channels: int, mean: Tensor | None, std: Tensor | None) -> None:
        zeros, ones = torch.zeros(channels), torch.ones(channels)
        self.register_buffer("reference_mean", zeros if mean is None else mean.detach().clone().float())
        self.register_buffer("reference_std", ones if std is None else std.detach().clone().float())
        self.has_reference = mean is not None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        # State dicts have no flag for it: absent statistics are stored as mean 0 and deviation 1.
        mean, std = (state_dict.get(prefix + name) for name in ("reference_mean", "reference_std"))
        if mean is not None and std is not None:  # else nothing of it was loaded
            self.has_reference = bool(mean.any()) or not bool((std == 1).all())


class WhiteningAdapter(_ReferenceStatistics):
    """y = gamma * LayerNorm(x) + beta, gamma within `gamma_range` and beta within +-`beta_max`."""

    def __init__(
        self,
        channels: int,
        task_id: int = 0,
        reference_mean: Tensor | None = None,
        reference_std: Tensor | None = None,
        gamma_range: tuple[float, float] = (0.5, 2.0),
        beta_max: float = 2.0,
    ) -> None:
        super().__init__()
        self.gamma_range = gamma_range
        self.beta_max = beta_max
        # sigmoid(-0.7) = 1/3 puts gamma of the first task at 1; later tasks start mid-range, at 1.25.
        self.gamma_raw = nn.Parameter(torch.full((1, 1, 1, channels), -0.7 if task_id == 0 else 0.0))
        self.beta_raw = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self._register_reference(channels, reference_mean, reference_std)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, D) -> (B, H, W, D)."""
        return self._map(x, *self.scale_and_shift())

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """gamma and beta (D,)."""
        low, high = self.gamma_range
        gamma = low + (high - low) * torch.sigmoid(self.gamma_raw.flatten())
        return gamma, self.beta_max * torch.tanh(self.beta_raw.flatten())

    def _map(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return whitening(x, gamma, beta)


class WhiteningAdapterNoLN(WhiteningAdapter):
    """The bounded scale and shift alone, without LayerNorm."""

    def _map(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return gamma * x + beta


class TaskInputAdapter(_ReferenceStatistics):
    """FiLM and a gated MLP: u = gamma * LN(x) + beta; u <- u + sigmoid(gate) * MLP(u).

    Without reference statistics (the first task) the result is 0.9 x + 0.1 u.
    """

    def __init__(
        self,
        channels: int,
        reference_mean: Tensor | None = None,
        reference_std: Tensor | None = None,
        use_norm: bool = True,
    ) -> None:
        super().__init__()
        hidden = max(channels // 2, 128)
        self.use_norm = use_norm
        self.film_gamma = nn.Parameter(torch.ones(1, 1, 1, channels))
        self.film_beta = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.residual_gate = nn.Parameter(torch.tensor([0.5]))
        self._register_reference(channels, reference_mean, reference_std)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, channels),
        )
        nn.init.normal_(self.mlp[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.mlp[-1].bias)  # type: ignore[arg-type]
        if use_norm:
            self.layer_norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, D) -> (B, H, W, D)."""
        u = self.film_gamma * self._normalize(x) + self.film_beta
        u = u + torch.sigmoid(self.residual_gate) * self.mlp(u)
        return u if self.has_reference else 0.9 * x + 0.1 * u

    def _normalize(self, x: Tensor) -> Tensor:
        return self.layer_norm(x) if self.use_norm else x


class SoftLNTaskInputAdapter(TaskInputAdapter):
    """The FiLM adapter on a blend of LN(x) and x: learned for the first task, pure x for the others."""

    ln_blend: Tensor

    def __init__(
        self,
        channels: int,
        reference_mean: Tensor | None = None,
        reference_std: Tensor | None = None,
        task_id: int = 0,
        soft_ln_init_scale: float = 0.01,
    ) -> None:
        super().__init__(channels, reference_mean, reference_std)
        if task_id == 0:
            self.ln_blend = nn.Parameter(torch.tensor([soft_ln_init_scale]))
        else:
            self.register_buffer("ln_blend", torch.zeros(1))

    def _normalize(self, x: Tensor) -> Tensor:
        blend = self.ln_blend.clamp(0.0, 1.0)
        return blend * self.layer_norm(x) + (1 - blend) * x


def create_task_adapter(
    adapter_mode: str,
    channels: int,
    reference_mean: Tensor | None = None,
    reference_std: Tensor | None = None,
    task_id: int = 0,
    soft_ln_init_scale: float = 0.01,
    front_directions: int = 32,
) -> nn.Module:
    """The adapter of one task.

    Raises:
        ValueError: an unknown mode.
    """
    reference = (reference_mean, reference_std)
    if adapter_mode == "whitening":
        return WhiteningAdapter(channels, task_id, *reference)
    if adapter_mode == "gaussian":
        return GaussianFront(channels, front_directions)
    if adapter_mode == "whitening_no_ln":
        return WhiteningAdapterNoLN(channels, task_id, *reference)
    if adapter_mode == "soft_ln":
        return SoftLNTaskInputAdapter(channels, *reference, task_id, soft_ln_init_scale)
    if adapter_mode == "standard":
        return TaskInputAdapter(channels, *reference)
    if adapter_mode == "no_ln":
        return TaskInputAdapter(channels, *reference, use_norm=False)
    if adapter_mode == "no_ln_after_task0":
        return TaskInputAdapter(channels, *reference, use_norm=task_id == 0)
    raise ValueError(f"unknown adapter mode {adapter_mode!r}; choose one of {', '.join(ADAPTER_MODES)}")
