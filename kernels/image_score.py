"""One score per image of its anomaly map; what could not be computed counts as +inf."""

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

from .selection import at_rank_below, keys, kth_largest, room_for_ties, value
from .tiles import fitting


@triton.jit
def _anomalous_if_nan(x):
    return tl.where(x != x, float("inf"), x)


@triton.jit
def _top_sum(x_ptr, size, k, BLOCK: tl.constexpr):
    """Sum of the k largest of x (size,) in fp64."""
    kth = kth_largest(x_ptr, size, k, BLOCK)
    room = room_for_ties(x_ptr, size, k, kth, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = _anomalous_if_nan(tl.load(x_ptr + at, mask=at < size, other=0.0))
        total += tl.where((at < size) & (keys(x) > kth), x, 0.0).to(tl.float64)
    # At least one equals the k-th, so there is no 0 * inf.
    return tl.sum(total, 0) + room * value(kth).to(tl.float64)


@triton.jit
def _mean_score(maps_ptr, scores_ptr, patches, BLOCK: tl.constexpr):
    maps_ptr += tl.program_id(0).to(tl.int64) * patches
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, patches, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(maps_ptr + at, mask=at < patches, other=0.0).to(tl.float64)
    # A NaN among the patches makes NaN here, as +inf next to -inf does.
    score = _anomalous_if_nan(tl.sum(total, 0) / patches)
    tl.store(scores_ptr + tl.program_id(0), score.to(tl.float32))


@triton.jit
def _top_score(maps_ptr, weighted_ptr, scores_ptr, patches, k, weight, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * patches
    score = _top_sum(maps_ptr + first, patches, k, BLOCK)
    if WEIGHTED:
        score = weight * _top_sum(weighted_ptr + first, patches, k, BLOCK) + (1.0 - weight) * score
    # Divided once: a division in fp64 is a call, around which Triton 3.6 spills what the second sum needs.
    tl.store(scores_ptr + tl.program_id(0), _anomalous_if_nan(score / k).to(tl.float32))


@triton.jit
def _quantile(maps_ptr, scores_ptr, patches, k_below, k_above, share, BLOCK: tl.constexpr):
    maps_ptr += tl.program_id(0).to(tl.int64) * patches
    key = kth_largest(maps_ptr, patches, k_above, BLOCK)
    above, below = value(key), value(at_rank_below(maps_ptr, patches, k_below, key, BLOCK))
    step = above - below
    score = tl.where(share < 0.5, below + share * step, above - step * (1.0 - share))
    tl.store(scores_ptr + tl.program_id(0), _anomalous_if_nan(score))


@triton.jit
def _cluster(maps_ptr, thresholds_ptr, weighted_ptr, height, width, BLOCK: tl.constexpr):
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(0).to(tl.int64) * height * width
    maps_ptr += first
    threshold = tl.load(thresholds_ptr + tl.program_id(0))
    ok = at < height * width
    line, column = at // width, at % width
    x = _anomalous_if_nan(tl.load(maps_ptr + at, mask=ok, other=0.0))
    neighbours = tl.zeros((BLOCK,), tl.float32)
    for down in tl.static_range(-1, 2):
        for right in tl.static_range(-1, 2):
            if down != 0 or right != 0:
                inside = ok & (line + down >= 0) & (line + down < height)
                inside &= (column + right >= 0) & (column + right < width)
                other = tl.load(maps_ptr + at + down * width + right, mask=inside, other=0.0)
                neighbours += (inside & (_anomalous_if_nan(other) > threshold)).to(tl.float32)
    tl.store(weighted_ptr + first + at, tl.where(x > threshold, x * (1.0 + neighbours / 8.0), x), mask=ok)


def mean_scores(maps: Tensor) -> Tensor:
    """Mean of each of maps (B, H, W), contiguous; (B,)."""
    patches, scores = maps.shape[1] * maps.shape[2], maps.new_empty(len(maps))
    _mean_score[(len(maps),)](maps, scores, patches, **_blocks(patches))
    return scores


def top_scores(maps: Tensor, k: int) -> Tensor:
    """Mean of the k largest of each of maps (B, H, W), contiguous; (B,)."""
    patches, scores = maps.shape[1] * maps.shape[2], maps.new_empty(len(maps))
    _top_score[(len(maps),)](maps, maps, scores, patches, k, 0.0, WEIGHTED=False, **_blocks(patches))
    return scores


def quantiles(maps: Tensor, fraction: float) -> Tensor:
    """Quantile of each of maps (B, H, W), contiguous, interpolated linearly; (B,)."""
    patches, scores = maps.shape[1] * maps.shape[2], maps.new_empty(len(maps))
    # The rank is rounded to fp32 as torch.quantile rounds it.
    rank = np.float32(fraction) * np.float32(patches - 1)
    below = min(int(rank), patches - 1)
    share = float(rank - np.float32(below))
    above = min(below + (share > 0), patches - 1)
    blocks = _blocks(patches)
    if blocks["BLOCK"] <= 1024:
        blocks["num_warps"] = 1  # each of the search's 32 counts would wait for all warps
    _quantile[(len(maps),)](maps, scores, patches, patches - below, patches - above, share, **blocks)
    return scores


def cluster_scores(maps: Tensor, fraction: float, k: int, weight: float) -> Tensor:
    """w * mean(top k weighted) + (1 - w) * mean(top k raw) of each of maps (B, H, W), contiguous; (B,).

    A patch above its image's quantile at `fraction` weighs 1 + (such patches among its 8 neighbours) / 8, others 1.
    """
    images, height, width = maps.shape
    weighted, scores = maps.new_empty(maps.shape), maps.new_empty(images)
    blocks = _blocks(height * width)
    programs = (images, triton.cdiv(height * width, blocks["BLOCK"]))
    _cluster[programs](maps, quantiles(maps, fraction), weighted, height, width, **blocks)
    _top_score[(images,)](maps, weighted, scores, height * width, k, weight, WEIGHTED=True, **blocks)
    return scores


def _blocks(patches: int) -> dict[str, int]:
    return {"BLOCK": fitting(patches, 2048), "num_warps": 8}
