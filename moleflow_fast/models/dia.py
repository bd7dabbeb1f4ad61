"""The small invertible flow that each task owns after the shared one (Deep Invertible Adapter)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SimpleSubnet(nn.Module):
    """Linear-ReLU-Linear-ReLU-Linear in `layers`; the last one starts at zero, so a coupling starts as identity."""

    def __init__(self, in_features: int, out_features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, out_features),
        )
        last = self.layers[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AffineCouplingBlock(nn.Module):
    """Affine coupling: y2 = x2 * exp(s) + t with s = c * tanh(s_net(x1) / c), t = t_net(x1).

    The halves are split at channels // 2; with `reverse` the second half drives the first.
    """

    def __init__(self, channels: int, hidden_dim: int, clamp_alpha: float = 1.9, reverse: bool = False) -> None:
        super().__init__()
        first = channels // 2
        self.split = (first, channels - first)
        self.clamp_alpha = clamp_alpha
        self.reverse = reverse
        driver, driven = self.split[::-1] if reverse else self.split
        self.s_net = SimpleSubnet(driver, driven, hidden_dim)
        self.t_net = SimpleSubnet(driver, driven, hidden_dim)

    def forward(self, x: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
        """x (..., C) -> y (..., C), logdet (...); `reverse=True` is the inverse map and its logdet."""
        first, second = x.split(self.split, dim=-1)
        driver, driven = (second, first) if self.reverse else (first, second)
        s = self.clamp_alpha * torch.tanh(self.s_net(driver) / self.clamp_alpha)
        t = self.t_net(driver)
        driven = (driven - t) * torch.exp(-s) if reverse else driven * torch.exp(s) + t
        logdet = -s.sum(-1) if reverse else s.sum(-1)
        halves = (driven, driver) if self.reverse else (driver, driven)
        return torch.cat(halves, dim=-1), logdet


class DeepInvertibleAdapter(nn.Module):
    """`n_blocks` affine couplings with the roles of the halves exchanged at every second one."""

    def __init__(
        self,
        channels: int,
        task_id: int,
        n_blocks: int = 2,
        hidden_ratio: float = 0.5,
        clamp_alpha: float = 1.9,
    ) -> None:
        super().__init__()
        self.task_id = task_id
        hidden = int(channels * hidden_ratio)
        self.coupling_blocks = nn.ModuleList(
            AffineCouplingBlock(channels, hidden, clamp_alpha, reverse=bool(i % 2)) for i in range(n_blocks)
        )

    def forward(self, x: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
        """x (B, H, W, D) -> y (B, H, W, D), logdet (B, H, W)."""
        logdet = x.new_zeros(x.shape[:-1])
        for block in reversed(self.coupling_blocks) if reverse else self.coupling_blocks:
            x, block_logdet = block(x, reverse=reverse)
            logdet = logdet + block_logdet
        return x, logdet
