"""From an anomaly map to one score per image; what could not be computed ranks as most anomalous."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import operator_on_triton, runs_compiled, runs_on_triton
from moleflow_fast.ops import native

MODES = ("percentile", "top_k", "mean", "spatial_cluster")  # csrc/cpu/image_score.h counts them in this order


def image_score(maps: Tensor, mode: str, *, fraction: float = 0.99, top_k: int = 1, weight: float = 0.5) -> Tensor:
    """Score each image by its map of patch scores.

    Args:
        maps: (B, H, W), larger is more anomalous; NaN counts as +inf.
        mode:
            "percentile": the quantile at `fraction`, interpolated linearly;
            "top_k": mean of the `top_k` largest; 1 gives the maximum;
            "mean": mean of all;
            "spatial_cluster": w * mean(top k weighted) + (1 - w) * mean(top k raw). A patch strictly above its
            image's quantile at `fraction` is high; a high patch weighs 1 + (high neighbours of 8) / 8, the others 1.
        fraction: in [0, 1].
        top_k: k, brought into 1..H*W.
        weight: w, in [0, 1].

    Returns:
        (B,). +inf where +inf takes part, also where that would make NaN (next to -inf, or times a weight of 0).

    Raises:
        ValueError: an unknown mode, a fraction or weight outside [0, 1], or maps that are not (B, H, W) with patches.
    """
    _check(maps, mode, fraction, weight)
    k = min(max(top_k, 1), maps.shape[1] * maps.shape[2])
    why_not = native.forward_only(maps)
    if runs_compiled(maps, why_not=why_not) or runs_on_triton(maps, why_not=why_not):
        return torch.ops.moleflow.image_score(maps, MODES.index(mode), fraction, k, weight)
    return image_score_reference(maps, mode, fraction=fraction, top_k=k, weight=weight)


def image_score_reference(
    maps: Tensor, mode: str, *, fraction: float = 0.99, top_k: int = 1, weight: float = 0.5
) -> Tensor:
    """The definition."""
    maps = rank_non_finite_as_anomalous(maps)
    patches = maps.flatten(1)  # (B, H*W)
    k = min(max(top_k, 1), patches.shape[1])
    if mode == "percentile":
        scores = _quantile(patches, fraction)
    elif mode == "top_k":
        scores = _top_mean(patches, k)
    elif mode == "mean":
        scores = patches.mean(1)
    else:
        scores = weight * _top_mean(_clustered(maps, fraction), k) + (1 - weight) * _top_mean(patches, k)
    return rank_non_finite_as_anomalous(scores)


def rank_non_finite_as_anomalous(scores: Tensor) -> Tensor:
    """NaN becomes +inf: a score that could not be computed must never rank as normal."""
    return scores.masked_fill(scores.isnan(), torch.inf)


def _top_mean(patches: Tensor, k: int) -> Tensor:
    return patches.topk(k, dim=1).values.mean(1)


def _quantile(patches: Tensor, fraction: float) -> Tensor:
    """Linear interpolation between order statistics; next to +inf it is +inf where torch.quantile has NaN."""
    return rank_non_finite_as_anomalous(torch.quantile(patches, fraction, dim=1))


def _clustered(maps: Tensor, fraction: float) -> Tensor:
    """Patches, the high ones weighted by their high neighbours; (B, H*W)."""
    threshold = _quantile(maps.flatten(1), fraction)
    high = (maps > threshold[:, None, None]).to(maps.dtype)  # (B, H, W)
    kernel = torch.ones(1, 1, 3, 3, dtype=maps.dtype, device=maps.device)
    kernel[..., 1, 1] = 0
    neighbours = F.conv2d(high[:, None], kernel, padding=1)[:, 0]
    return torch.where(high > 0, maps * (1 + neighbours / 8), maps).flatten(1)


def _check(maps: Tensor, mode: str, fraction: float, weight: float) -> None:
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"maps must be (B, H, W) with at least one patch, got {tuple(maps.shape)}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not (0 <= fraction <= 1 and 0 <= weight <= 1):
        raise ValueError(f"fraction and weight must lie in [0, 1], got {fraction} and {weight}")


def _triton_scores(maps: Tensor, mode: str, fraction: float, k: int, weight: float) -> Tensor:
    # Imported when first needed: an installation for the CPU may lack Triton.
    from moleflow_fast.kernels import image_score as kernels

    if mode == "percentile":
        return kernels.quantiles(maps, fraction)
    if mode == "top_k":
        return kernels.top_scores(maps, k)
    if mode == "mean":
        return kernels.mean_scores(maps)
    return kernels.cluster_scores(maps, fraction, k, weight)


@torch.library.custom_op("moleflow::image_score", mutates_args=())
def _compiled(maps: Tensor, mode: int, fraction: float, k: int, weight: float) -> Tensor:
    if operator_on_triton(maps):
        return _triton_scores(maps.contiguous(), MODES[mode], fraction, k, weight)
    scores = maps.new_empty(len(maps))
    compiled.image_score(maps.contiguous(), scores, mode, fraction, k, weight, native.threads())
    return scores


@_compiled.register_fake
def _(maps: Tensor, mode: int, fraction: float, k: int, weight: float) -> Tensor:
    return maps.new_empty(maps.shape[0])
