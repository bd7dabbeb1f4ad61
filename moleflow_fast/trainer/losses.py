"""Negative log-likelihood per patch and the losses made of it."""

from __future__ import annotations

import math

from torch import Tensor


def patch_nll(z: Tensor, logdet: Tensor) -> Tensor:
    """-log p per patch: |z|^2 / 2 + D/2 ln(2 pi) - logdet, for z (B, H, W, D) and logdet (B, H, W)."""
    return 0.5 * (z**2).sum(-1) + 0.5 * z.shape[-1] * math.log(2 * math.pi) - logdet


def nll_loss(nll: Tensor) -> Tensor:
    """Mean over images of the sum over patches, for nll (B, H, W)."""
    return nll.flatten(1).sum(1).mean()


def tail_aware_loss(nll: Tensor, weight: float, top_k_ratio: float) -> Tensor:
    """(1 - w) * mean(nll) + w * mean(the k largest per image), k = max(1, int(H W * ratio))."""
    patches = nll.flatten(1)  # (B, H*W)
    k = max(1, int(patches.shape[1] * top_k_ratio))
    tail = patches.topk(k, dim=1).values
    return (1 - weight) * patches.mean() + weight * tail.mean()


def logdet_penalty(logdet: Tensor) -> Tensor:
    """mean(logdet^2): keeps the flow from growing volume without bound."""
    return (logdet**2).mean()
