"""From feature maps to patch features: 3x3 neighbourhoods, pooled to D values, averaged over layers.

The adaptive average pooling of the C*p*p values of a patch is linear with fixed weights, so the whole step is
one convolution and the p*p-fold copy of the map is never made. With g = gcd(C, D) the pooling splits into g
equal groups (D/g outputs read C/g channels each), which makes it a grouped convolution with few terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_patches(
    maps: Sequence[Tensor],
    embed_dim: int,
    grid: tuple[int, int],
    patch_size: int = 3,
    patch_stride: int = 1,
) -> Tensor:
    """Pool the local patches of several feature maps into one vector per grid cell.

    Args:
        maps: one (B, C_l, H_l, W_l) tensor per layer; channels and sizes may differ.
        embed_dim: D, the width of the result.
        grid: (H, W) of the result; the patch grid of the first map.
        patch_size: side of the square neighbourhood.
        patch_stride: step between neighbourhoods.

    Returns:
        (B, H, W, D), contiguous, in the dtype of the maps.

    Channels are pooled before the grid is resized: both are linear and act on different axes, so the order
    does not change the result, and the resize then moves D instead of C*p*p values.
    """
    if not maps:
        raise ValueError("pool_patches needs at least one feature map")
    pooled = [_resize(_pool_neighbourhoods(m, embed_dim, patch_size, patch_stride), grid) for m in maps]
    mean = pooled[0] if len(pooled) == 1 else torch.stack(pooled).mean(0)  # (B, D, H, W)
    return mean.permute(0, 2, 3, 1).contiguous()


def pool_patches_reference(
    maps: Sequence[Tensor],
    embed_dim: int,
    grid: tuple[int, int],
    patch_size: int = 3,
    patch_stride: int = 1,
) -> Tensor:
    """The definition, step by step, as the oracle for `pool_patches`: unfold, resize, pool, mean."""
    layers = []
    for m in maps:
        batch, channels = m.shape[:2]
        patches = F.unfold(m, patch_size, padding=(patch_size - 1) // 2, stride=patch_stride)
        patches = patches.reshape(batch, channels * patch_size**2, *patch_grid(m, patch_size, patch_stride))
        patches = _resize(patches, grid).flatten(2).transpose(1, 2)  # (B, H*W, C*p*p)
        layers.append(F.adaptive_avg_pool1d(patches, embed_dim))  # (B, H*W, D)
    return torch.stack(layers).mean(0).reshape(len(maps[0]), *grid, embed_dim)


def patch_grid(feature_map: Tensor, patch_size: int = 3, patch_stride: int = 1) -> tuple[int, int]:
    """Number of patches (rows, columns) of a (B, C, H, W) map."""
    padding = (patch_size - 1) // 2
    rows, columns = ((n + 2 * padding - patch_size) // patch_stride + 1 for n in feature_map.shape[2:])
    return rows, columns


def _pool_neighbourhoods(feature_map: Tensor, embed_dim: int, patch_size: int, patch_stride: int) -> Tensor:
    channels = feature_map.shape[1]
    kernel = _pooling_kernel(channels, embed_dim, patch_size, feature_map.device, feature_map.dtype)
    return F.conv2d(
        feature_map,
        kernel,
        stride=patch_stride,
        padding=(patch_size - 1) // 2,
        groups=math.gcd(channels, embed_dim),
    )  # (B, D, rows, columns)


@lru_cache(maxsize=32)
def _pooling_kernel(
    channels: int, embed_dim: int, patch_size: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Adaptive average pooling of C*p*p values to D as a grouped kernel (D, C/g, p, p), g = gcd(C, D)."""
    groups = math.gcd(channels, embed_dim)
    inputs, outputs = channels // groups * patch_size**2, embed_dim // groups
    kernel = torch.zeros(outputs, inputs, dtype=torch.float64)
    for i in range(outputs):
        start, end = i * inputs // outputs, -(-(i + 1) * inputs // outputs)
        kernel[i, start:end] = 1 / (end - start)
    kernel = kernel.reshape(outputs, channels // groups, patch_size, patch_size)
    return kernel.repeat(groups, 1, 1, 1).to(device=device, dtype=dtype)


def _resize(feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(feature_map.shape[2:]) == tuple(grid):
        return feature_map
    return F.interpolate(feature_map, size=grid, mode="bilinear", align_corners=False)
