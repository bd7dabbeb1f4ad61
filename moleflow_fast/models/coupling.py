"""The base flow: AllInOne coupling blocks (FrEIA 0.2 conventions) with hard permutations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SubnetFactory = Callable[[int, int], nn.Module]


class AllInOneBlock(nn.Module):
    """One affine coupling, a global scale and offset, and a fixed permutation of the channels.

    [s, t] = 0.1 * subnet(x1); log-scale = clamp * tanh(s); x2 <- x2 * exp(log-scale) + t;
    y = P(x * g + o) with g = 0.1 * softplus_{beta=0.5}(`global_scale`).

    The permutation is kept as `perm_index`: channel i of y is channel perm_index[i] before it.
    """

    perm_index: Tensor

    def __init__(self, channels: int, subnet_factory: SubnetFactory, clamp_alpha: float = 1.9) -> None:
        super().__init__()
        self.split = (channels - channels // 2, channels // 2)
        self.clamp_alpha = clamp_alpha
        self.subnet = subnet_factory(self.split[0], 2 * self.split[1])
        # softplus_{0.5}(2 ln(e^5 - 1)) = 10, so the scale starts at 1.
        self.global_scale = nn.Parameter(torch.full((1, channels), 2.0 * math.log(math.exp(5.0) - 1.0)))
        self.global_offset = nn.Parameter(torch.zeros(1, channels))
        self.register_buffer("perm_index", torch.randperm(channels))

    def scale(self) -> Tensor:
        """The global scale g, (D,)."""
        return 0.1 * F.softplus(self.global_scale[0], beta=0.5)

    def forward(self, x: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
        """x (B, H, W, D) -> y (B, H, W, D), logdet (B, H, W); `reverse=True` is the inverse map."""
        scale = self.scale()
        if reverse:
            x = (x[..., self.perm_index.argsort()] - self.global_offset[0]) / scale
        x1, x2 = x.split(self.split, dim=-1)
        log_scale, shift = self._log_scale_and_shift(x1)
        logdet = log_scale.sum(-1) + scale.log().sum()
        if reverse:
            return torch.cat([x1, (x2 - shift) * torch.exp(-log_scale)], dim=-1), -logdet
        x = torch.cat([x1, x2 * torch.exp(log_scale) + shift], dim=-1)
        return (x * scale + self.global_offset[0])[..., self.perm_index], logdet

    def _log_scale_and_shift(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        s, shift = (0.1 * self.subnet(x1)).split(self.split[1], dim=-1)
        return self.clamp_alpha * torch.tanh(s), shift


class CouplingFlow(nn.Module):
    """`module_list` of blocks, applied in order; zero blocks are the identity."""

    def __init__(self, channels: int, n_blocks: int, subnet_factory: SubnetFactory, clamp_alpha: float) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(AllInOneBlock(channels, subnet_factory, clamp_alpha) for _ in range(n_blocks))

    def forward(self, x: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
        """x (B, H, W, D) -> z (B, H, W, D), logdet (B, H, W)."""
        logdet = x.new_zeros(x.shape[:-1])
        for block in reversed(self.module_list) if reverse else self.module_list:
            x, block_logdet = block(x, reverse=reverse)
            logdet = logdet + block_logdet
        return x, logdet
