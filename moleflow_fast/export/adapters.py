"""Input adapters of all tasks as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moleflow_fast.export.by_image import linear_layers_by_image, of_images
from moleflow_fast.models.adapters import (
    GaussianFront,
    SoftLNTaskInputAdapter,
    TaskInputAdapter,
    WhiteningAdapter,
    WhiteningAdapterNoLN,
)
from moleflow_fast.ops.whitening import EPS


def adapter_by_image(adapters: Sequence[nn.Module]) -> nn.Module:
    """The adapters of all tasks, which are of one kind, as one."""
    if isinstance(adapters[0], GaussianFront):
        return _FrontsByImage([cast(GaussianFront, a) for a in adapters])
    if isinstance(adapters[0], WhiteningAdapter):
        return _ScaledAndShifted([_whitening_terms(cast(WhiteningAdapter, a)) for a in adapters])
    return _FiLMByImage([cast(TaskInputAdapter, a) for a in adapters])


class _ScaledAndShifted(nn.Module):
    """y = normal * LN(x) + plain * x + shift, LN without parameters: each of the terms (D,) per task."""

    normal: Tensor
    plain: Tensor
    shift: Tensor

    def __init__(self, terms: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        super().__init__()
        for name, own in zip(("normal", "plain", "shift"), zip(*terms, strict=True), strict=True):
            self.register_buffer(name, torch.stack(own).detach()[:, None, None])  # (T, 1, 1, D)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, D) -> (B, H, W, D)."""
        normalized = F.layer_norm(x, x.shape[-1:], eps=EPS)
        return of_images(self.normal) * normalized + of_images(self.plain) * x + of_images(self.shift)


class _FrontsByImage(nn.Module):
    """w = y + U^T (gain - 1) U y, y = scale * whitener (x - mean); each image copies its task's directions."""

    mean: Tensor
    whitener: Tensor
    scale: Tensor
    directions: Tensor
    factor: Tensor

    def __init__(self, fronts: Sequence[GaussianFront]) -> None:
        super().__init__()
        given = [front.tensors() for front in fronts]
        self.register_buffer("mean", torch.stack([t.mean.flatten(0, 1) for t in given]))  # (T, HW, D)
        self.register_buffer("whitener", torch.stack([t.whitener.T for t in given]))  # (T, D, D)
        self.register_buffer("scale", torch.stack([t.scale.flatten()[:, None] for t in given]))  # (T, HW, 1)
        self.has_directions = fronts[0].n_directions > 0
        if self.has_directions:
            # (T, HW, K, D) and (T, HW, K)
            self.register_buffer("directions", torch.stack([t.directions.flatten(0, 1) for t in given]))
            self.register_buffer("factor", torch.stack([t.gain.flatten(0, 1) - 1 for t in given]))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, D) -> (B, H, W, D)."""
        y = of_images(self.scale) * torch.bmm(x.flatten(1, 2) - of_images(self.mean), of_images(self.whitener))
        if self.has_directions:
            u = of_images(self.directions)
            along = of_images(self.factor)[:, :, None] * (y[:, :, None] @ u.transpose(2, 3))  # (B, HW, 1, K)
            y = y + (along @ u)[:, :, 0]
        return y.unflatten(1, x.shape[1:3])


class _FiLMByImage(nn.Module):
    """u = FiLM(x); u <- u + gate * MLP(u); y = kept * x + (1 - kept) * u."""

    gate: Tensor
    kept: Tensor

    def __init__(self, adapters: Sequence[TaskInputAdapter]) -> None:
        super().__init__()
        self.film = _ScaledAndShifted([_film_terms(a) for a in adapters])
        self.mlp = linear_layers_by_image([a.mlp for a in adapters])
        gates = torch.stack([torch.sigmoid(a.residual_gate.detach()) for a in adapters])
        self.register_buffer("gate", gates[..., None, None])  # (T, 1, 1, 1)
        kept = torch.tensor([0.0 if a.has_reference else 0.9 for a in adapters])
        self.register_buffer("kept", kept.to(self.gate)[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, D) -> (B, H, W, D)."""
        u = self.film(x)
        u = u + of_images(self.gate) * self.mlp(u)
        kept = of_images(self.kept)
        return kept * x + (1 - kept) * u


def _whitening_terms(adapter: WhiteningAdapter) -> tuple[Tensor, Tensor, Tensor]:
    gamma, beta = adapter.scale_and_shift()
    zeros = torch.zeros_like(gamma)
    return (zeros, gamma, beta) if isinstance(adapter, WhiteningAdapterNoLN) else (gamma, zeros, beta)


def _film_terms(adapter: TaskInputAdapter) -> tuple[Tensor, Tensor, Tensor]:
    """gamma * (blend * (w * LN(x) + b) + (1 - blend) * x) + beta, multiplied out."""
    gamma, beta = adapter.film_gamma.flatten(), adapter.film_beta.flatten()
    if not adapter.use_norm:
        return torch.zeros_like(gamma), gamma, beta
    blend = adapter.ln_blend.clamp(0, 1) if isinstance(adapter, SoftLNTaskInputAdapter) else gamma.new_ones(1)
    norm = adapter.layer_norm
    return gamma * blend * norm.weight, gamma * (1 - blend), gamma * blend * norm.bias + beta
