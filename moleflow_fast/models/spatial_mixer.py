"""Mixing each patch with its neighbours before the flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moleflow_fast.config.switches import SPATIAL_CONTEXT_MODES
from moleflow_fast.ops.depthwise import box_mean, depthwise, gated_residual


class SpatialContextMixer(nn.Module):
    """With g = sigmoid(`residual_gate`), DW the depthwise convolution and std_k the local deviation:

    depthwise            DW(x)
    depthwise_residual   (1 - g) x + g DW(x)
    local_stats          (1 - g) x + g P([x, std_k])
    full                 (1 - g) x + g P([x, DW(x), std_k])

    P = `stats_proj` = Linear-GELU-Linear, last layer zero at the start. Every mode owns gate and convolution,
    used or not, as in the published state dict.
    """

    def __init__(
        self,
        channels: int,
        mode: str = "depthwise_residual",
        kernel_size: int = 3,
        learnable: bool = True,
    ) -> None:
        super().__init__()
        if mode not in SPATIAL_CONTEXT_MODES:
            raise ValueError(f"unknown mixer mode {mode!r}; choose one of {', '.join(SPATIAL_CONTEXT_MODES)}")
        self.mode = mode
        self.kernel_size = kernel_size
        self.residual_gate = nn.Parameter(torch.tensor([0.5]))
        self.depthwise_conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        nn.init.constant_(self.depthwise_conv.weight, 1.0 / kernel_size**2)
        nn.init.zeros_(self.depthwise_conv.bias)  # type: ignore[arg-type]
        if mode in ("local_stats", "full"):
            parts = 2 if mode == "local_stats" else 3
            self.stats_proj = nn.Sequential(
                nn.Linear(parts * channels, channels), nn.GELU(), nn.Linear(channels, channels)
            )
            nn.init.zeros_(self.stats_proj[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.stats_proj[-1].bias)  # type: ignore[arg-type]
        if not learnable:
            self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, D) -> (B, H, W, D)."""
        if (taps := self.as_convolution()) is not None:
            return depthwise(x, *taps)
        gate = torch.sigmoid(self.residual_gate)
        return (1 - gate) * x + gate * self._context(x)

    def as_convolution(self) -> tuple[Tensor, Tensor] | None:
        """Taps and bias of the depthwise convolution that the mixer is, None where it is more than that."""
        if self.mode == "depthwise":
            return self._taps()
        if self.mode == "depthwise_residual":
            return gated_residual(*self._taps(), torch.sigmoid(self.residual_gate))
        return None

    def _context(self, x: Tensor) -> Tensor:
        if self.mode == "local_stats":
            return self.stats_proj(torch.cat([x, self._local_std(x)], dim=-1))
        return self.stats_proj(torch.cat([x, self._depthwise(x), self._local_std(x)], dim=-1))

    def _depthwise(self, x: Tensor) -> Tensor:
        return depthwise(x, *self._taps())

    def _taps(self) -> tuple[Tensor, Tensor]:
        return self.depthwise_conv.weight.flatten(1).t(), self.depthwise_conv.bias  # type: ignore[return-value]

    def _local_std(self, x: Tensor) -> Tensor:
        mean = box_mean(x, self.kernel_size)
        variance = box_mean(x**2, self.kernel_size) - mean**2
        return variance.clamp_min(1e-6).sqrt()
