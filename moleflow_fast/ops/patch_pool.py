"""From feature maps to patch features: local neighbourhoods, pooled to D values, averaged over layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import runs_compiled, wants_triton
from moleflow_fast.ops import native

_NARROW = (torch.bfloat16, torch.float16)


def patch_pool(
    maps: Sequence[Tensor],
    embed_dim: int,
    grid: tuple[int, int],
    patch_size: int = 3,
    patch_stride: int = 1,
) -> Tensor:
    """Pool the local patches of several feature maps into one vector per grid cell.

    Args:
        maps: one (B, C_l, H_l, W_l) tensor per layer; channels and sizes may differ. Channels-last and contiguous
            maps are read as they are.
        embed_dim: D, the width of the result.
        grid: (H, W) of the result; the patch grid of the first map.
        patch_size: side of the square neighbourhood, zeros outside the map.
        patch_stride: step between neighbourhoods.

    Returns:
        (B, H, W, D), contiguous, in the dtype of the maps, but at least fp32: sums of bf16 or fp16 maps are fp32.

    Raises:
        ValueError: no maps, maps that are not (B, C, H, W), differ in B or are empty, a width or grid below 1.

    Compiled for patches of 3 with stride 1; that has no gradient, so maps that want one take the convolution too.
    Triton kernels run on a GPU where the backend is theirs and they can, else the convolution does.
    """
    _check(maps, embed_dim, grid)
    if not _runs_kernels(maps):
        maps = [m.float() if m.dtype in _NARROW else m for m in maps]
    if runs_compiled(*maps, why_not=_obstacle(maps, patch_size, patch_stride)):
        return torch.ops.moleflow.patch_pool(maps, embed_dim, *grid)
    pool = _pool_by_kernels if _runs_kernels(maps) else _pool_by_convolution
    return pool(maps, embed_dim, grid, patch_size, patch_stride)


def patch_pool_and_means(
    maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int], patch_size: int = 3, patch_stride: int = 1
) -> tuple[Tensor, Tensor]:
    """`patch_pool`, and the mean over the patches of each image (B, D)."""
    _check(maps, embed_dim, grid)
    if not _runs_kernels(maps):
        features = patch_pool(maps, embed_dim, grid, patch_size, patch_stride)
        return features, features.mean((1, 2))
    from moleflow_fast.kernels.patch_pool import pool_patches_and_means

    return pool_patches_and_means(maps, embed_dim, grid, patch_size, patch_stride)


def patch_pool_reference(
    maps: Sequence[Tensor],
    embed_dim: int,
    grid: tuple[int, int],
    patch_size: int = 3,
    patch_stride: int = 1,
) -> Tensor:
    """The definition, step by step: unfold, resize, pool, mean."""
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


def _check(maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int]) -> None:
    if not maps:
        raise ValueError("patch_pool needs at least one feature map")
    for m in maps:
        if m.ndim != 4 or m.shape[0] != maps[0].shape[0] or 0 in m.shape[1:]:
            shapes = [tuple(m.shape) for m in maps]
            raise ValueError(f"feature maps must be (B, C, H, W) with one B and no empty axis but B, got {shapes}")
    if embed_dim < 1 or min(grid) < 1:
        raise ValueError(f"embed_dim and grid must be at least 1, got {embed_dim} and {grid}")


def _obstacle(maps: Sequence[Tensor], patch_size: int, patch_stride: int) -> str | None:
    if (patch_size, patch_stride) != (3, 1):
        return f"patches of {patch_size} with stride {patch_stride}, and it takes patches of 3 with stride 1"
    return native.forward_only(*maps)


def _runs_kernels(maps: Sequence[Tensor]) -> bool:
    (device, dtype), *others = {(m.device, m.dtype) for m in maps}
    takes = dtype in (torch.float32, *_NARROW) and not others
    return takes and wants_triton(device) and native.forward_only(*maps) is None


def _pool_by_kernels(
    maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int], patch_size: int, patch_stride: int
) -> Tensor:
    from moleflow_fast.kernels.patch_pool import pool_patches

    return pool_patches(maps, embed_dim, grid, patch_size, patch_stride)


@torch.library.custom_op("moleflow::patch_pool", mutates_args=())
def _compiled(maps: Sequence[Tensor], embed_dim: int, height: int, width: int) -> Tensor:
    batch = maps[0].shape[0]
    out = maps[0].new_empty(batch, height, width, embed_dim)
    if out.numel() == 0:
        return out
    maps = [m if m.is_contiguous(memory_format=torch.channels_last) else m.contiguous() for m in maps]
    compiled.patch_pool(maps, out, native.threads())
    return out


@_compiled.register_fake
def _(maps: Sequence[Tensor], embed_dim: int, height: int, width: int) -> Tensor:
    return maps[0].new_empty(maps[0].shape[0], height, width, embed_dim)


def _pool_by_convolution(
    maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int], patch_size: int, patch_stride: int
) -> Tensor:
    """The same without the p*p-fold copy of the maps, on any device.

    Channels are pooled before the grid is resized: both are linear and act on different axes, so the order
    does not change the result, and the resize then moves D instead of C*p*p values.
    """
    pooled = [_resize(_pool_neighbourhoods(m, embed_dim, patch_size, patch_stride), grid) for m in maps]
    mean = pooled[0] if len(pooled) == 1 else torch.stack(pooled).mean(0)  # (B, D, H, W)
    return mean.permute(0, 2, 3, 1).contiguous()


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
def _pooling_kernel(channels: int, embed_dim: int, patch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Adaptive average pooling of C*p*p values to D as a grouped kernel (D, C/g, p, p), g = gcd(C, D).

    The pooling splits into g equal groups: D/g outputs read C/g channels each.
    """
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
