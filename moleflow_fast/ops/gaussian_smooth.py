"""Gaussian smoothing of anomaly maps, as scipy.ndimage.gaussian_filter does it (mode "reflect", truncate 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import runs_compiled
from moleflow_fast.ops import native

_TRUNCATE = 4.0


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Smooth maps (N, H, W) with standard deviation `sigma` pixels; sigma 0 returns them as they are.

    fp32 and fp64 on a CPU run in the compiled part; anything else, and what wants a gradient, in plain PyTorch. On a
    GPU that is enough: only maps of whole pictures, one at a time, come here; `pixel_map` smooths batches.

    Raises:
        ValueError: maps are not (N, H, W), or sigma is negative or not finite.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must be (N, H, W), got {tuple(maps.shape)}")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma must be finite and at least 0, got {sigma}")
    if sigma == 0 or maps.numel() == 0:
        return maps
    if runs_compiled(maps, why_not=native.forward_only(maps)):
        return _compiled(maps, sigma)
    return gaussian_smooth_reference(maps, sigma)


def gaussian_smooth_reference(maps: Tensor, sigma: float) -> Tensor:
    """The same in plain PyTorch, any device and floating type: the definition."""
    if sigma == 0:
        return maps
    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=maps.device)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    weights = (weights / weights.sum()).to(maps.dtype)
    for axis in (-2, -1):
        size = maps.shape[axis]
        at = (torch.arange(size, device=maps.device)[:, None] + offsets) % (2 * size)  # (size, taps)
        at = torch.where(at < size, at, 2 * size - 1 - at)  # d c b a | a b c d
        lines = maps.movedim(axis, -1)[..., at]  # (N, other, size, taps)
        maps = (lines @ weights).movedim(-1, axis)
    return maps


def _compiled(maps: Tensor, sigma: float) -> Tensor:
    maps = maps.contiguous()
    out = torch.empty_like(maps)
    compiled.gaussian_smooth(maps, out, sigma, native.threads())
    return out
