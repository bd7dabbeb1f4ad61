"""From patch maps to pixel maps: resize, then Gaussian smoothing; both are linear, so one matrix an axis does both."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import operator_on_triton, runs_compiled, runs_on_triton
from moleflow_fast.ops import native
from moleflow_fast.ops.gaussian_smooth import gaussian_smooth, gaussian_smooth_reference

_ALIGN_CORNERS = {"bilinear": True, "bicubic": False}
_NOISE = 1e-12


def pixel_map(maps: Tensor, size: int, sigma: float, mode: str = "bilinear") -> Tensor:
    """Resize maps (N, h, w) to (N, size, size) and smooth them.

    fp32 on a GPU runs in Triton where backend "triton" was asked for.

    Args:
        maps: finite values. A large one reaches as far as the resize and the Gaussian do and no further.
        size: S, pixels.
        sigma: standard deviation of the Gaussian in pixels, as scipy.ndimage.gaussian_filter; 0 for none.
        mode: "bilinear" (align_corners=True) or "bicubic" (align_corners=False), as F.interpolate.

    Raises:
        ValueError: maps are not (N, h, w) with patches, size is below 1, sigma negative or not finite, or mode unknown.
    """
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"maps must be (N, h, w) with at least one patch, got {tuple(maps.shape)}")
    if size < 1 or not 0 <= sigma < float("inf"):
        raise ValueError(f"size must be at least 1, sigma finite and at least 0, got {size} and {sigma}")
    if mode not in _ALIGN_CORNERS:
        raise ValueError(f"mode must be one of {', '.join(_ALIGN_CORNERS)}, got {mode!r}")
    why_not = native.forward_only(maps)
    if runs_compiled(maps, why_not=why_not) or runs_on_triton(maps, why_not=why_not):
        return torch.ops.moleflow.pixel_map(maps, size, sigma, mode)
    return gaussian_smooth(_resize(maps, (size, size), mode), sigma)


def picture_map(one: Tensor, shape: tuple[int, int], sigma: float, mode: str = "bilinear") -> Tensor:
    """As `pixel_map`, of one map (h, w) to the shape (H, W) of its picture."""
    return gaussian_smooth(_resize(one[None], shape, mode), sigma)[0]


def pixel_map_reference(maps: Tensor, size: int, sigma: float, mode: str = "bilinear") -> Tensor:
    """The definition."""
    return gaussian_smooth_reference(_resize(maps, (size, size), mode), sigma)


def _resize(maps: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(maps[:, None], shape, mode=mode, align_corners=_ALIGN_CORNERS[mode])[:, 0]


@lru_cache(maxsize=32)
def axis_matrix(patches: int, size: int, sigma: float, mode: str, dtype: torch.dtype) -> Tensor:
    """What each patch of an axis gives to each pixel, (patches, size): the two steps applied to unit impulses.

    Patches that do not reach a pixel give it exactly 0. A source position that misses a whole number by a rounding
    error would give 1e-16 instead, which a patch of 1e30 would carry as 1e14 to where it has no business.
    """
    impulses = torch.eye(patches, dtype=torch.float64, device="cpu")[:, :, None]  # one map (patches, 1) per patch
    lines = _resize(impulses, (size, 1), mode)
    lines = lines.masked_fill(lines.abs() < _NOISE, 0)
    return gaussian_smooth_reference(lines, sigma)[:, :, 0].to(dtype).contiguous()


@lru_cache(maxsize=32)
def _device_matrix(patches: int, size: int, sigma: float, mode: str, device: torch.device) -> Tensor:
    """`axis_matrix` in fp32 on a device."""
    return axis_matrix(patches, size, sigma, mode, torch.float32).to(device)


def _triton_maps(maps: Tensor, size: int, sigma: float, mode: str) -> Tensor:
    # Imported when first needed: an installation for the CPU may lack Triton.
    from moleflow_fast.kernels.pixel_map import between_matrices

    down, across = (_device_matrix(patches, size, sigma, mode, maps.device) for patches in maps.shape[1:])
    return between_matrices(down, maps, across)


@torch.library.custom_op("moleflow::pixel_map", mutates_args=())
def _compiled(maps: Tensor, size: int, sigma: float, mode: str) -> Tensor:
    if operator_on_triton(maps):
        return _triton_maps(maps.contiguous(), size, sigma, mode)
    count, height, width = maps.shape
    rows = axis_matrix(height, size, sigma, mode, maps.dtype).T.contiguous()
    columns = axis_matrix(width, size, sigma, mode, maps.dtype)
    out = maps.new_empty(count, size, size)
    compiled.pixel_map(maps.contiguous(), rows, columns, out, native.threads())
    return out


@_compiled.register_fake
def _(maps: Tensor, size: int, sigma: float, mode: str) -> Tensor:
    return maps.new_empty(maps.shape[0], size, size)
