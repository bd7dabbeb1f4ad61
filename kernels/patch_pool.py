"""Patches of feature maps, pooled to D values a pixel at each map's own resolution, then resized and added up.

Pooling, resize and mean are linear and act on different axes, so the resize moves D values instead of C*k*k. An output
is a mean over consecutive values of a patch; tap by tap those are consecutive channels of one neighbour.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import fitting


@triton.jit
def _along(pixels, outputs, PIXELS_FIRST: tl.constexpr):
    """Both as axes of one tile."""
    if PIXELS_FIRST:
        return pixels[:, None], outputs[None, :]
    else:  # noqa: RET505 - Triton compiles what follows a return
        return pixels[None, :], outputs[:, None]


@triton.jit
def _store(out_ptr, n, d, tokens, dim, value, ACCUMULATE: tl.constexpr):
    out = out_ptr + n.to(tl.int64)[:, None] * dim + d[None, :]
    ok = (n < tokens)[:, None] & (d < dim)[None, :]
    if ACCUMULATE:
        value += tl.load(out, mask=ok, other=0.0)
    tl.store(out, value, mask=ok)


@triton.jit
def _pool(
    map_ptr, image_stride, channel_stride, line_stride, column_stride, out_ptr, channels, height, width, lines, columns,
    tokens, dim, most, weight,
    SIDE: tl.constexpr, STRIDE: tl.constexpr, PIXELS_FIRST: tl.constexpr, ACCUMULATE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Output d is the mean of values begin..end of a patch, value = channel * TAPS + tap."""
    TAPS: tl.constexpr = SIDE * SIDE
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    top, left = n // columns % lines * STRIDE - (SIDE - 1) // 2, n % columns * STRIDE - (SIDE - 1) // 2
    image = map_ptr + (n // (columns * lines)).to(tl.int64) * image_stride
    begin = d.to(tl.int64) * channels * TAPS // dim
    end = ((d.to(tl.int64) + 1) * channels * TAPS + dim - 1) // dim
    total = tl.zeros((BLOCK_N, BLOCK_D) if PIXELS_FIRST else (BLOCK_D, BLOCK_N), tl.float32)
    # Not unrolled: the addresses of all taps at once would not fit in registers.
    for tap in range(0, TAPS):
        y, x = top + tap // SIDE, left + tap % SIDE
        inside = (n < tokens) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel = image + y.to(tl.int64) * line_stride + x.to(tl.int64) * column_stride
        channel = (begin + (TAPS - 1 - tap)) // TAPS
        last = tl.where(d < dim, (end + (TAPS - 1 - tap)) // TAPS, 0)
        # A sum of its own for each tap: long windows keep their precision.
        part = tl.zeros(total.shape, tl.float32)
        for _ in range(0, most):
            at, offset = _along(pixel, channel * channel_stride, PIXELS_FIRST)
            pixel_ok, channel_ok = _along(inside, channel < last, PIXELS_FIRST)
            part += tl.load(at + offset, mask=pixel_ok & channel_ok, other=0.0).to(tl.float32)
            channel += 1
        total += part
    if not PIXELS_FIRST:
        total = tl.trans(total)
    _store(out_ptr, n, d, tokens, dim, total * (weight / (end - begin).to(tl.float32))[None, :], ACCUMULATE)


@triton.jit
def _blend(index, inputs, outputs):
    """The two inputs of a bilinear resize, align_corners=False, and the share of the second; exact in integers."""
    centre = (2 * index + 1) * inputs - outputs
    centre = tl.where(centre > 0, centre, 0)
    first = centre // (2 * outputs)
    share = (centre % (2 * outputs)).to(tl.float32) / (2 * outputs)
    return first, tl.where(first < inputs - 1, first + 1, inputs - 1), share


@triton.jit
def _resize(
    pooled_ptr, out_ptr, lines, columns, height, width, tokens, dim,
    ACCUMULATE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    ok = (n < tokens)[:, None] & (d < dim)[None, :]
    top, bottom, down = _blend(n // width % height, lines, height)
    left, right, across = _blend(n % width, columns, width)
    image = (n // (height * width)).to(tl.int64) * lines
    upper, lower = (image + top) * columns, (image + bottom) * columns
    at = pooled_ptr + d[None, :]
    a = tl.load(at + ((upper + left) * dim)[:, None], mask=ok, other=0.0)
    b = tl.load(at + ((upper + right) * dim)[:, None], mask=ok, other=0.0)
    a = (1.0 - across)[:, None] * a + across[:, None] * b
    b = tl.load(at + ((lower + left) * dim)[:, None], mask=ok, other=0.0)
    c = tl.load(at + ((lower + right) * dim)[:, None], mask=ok, other=0.0)
    b = (1.0 - across)[:, None] * b + across[:, None] * c
    _store(out_ptr, n, d, tokens, dim, (1.0 - down)[:, None] * a + down[:, None] * b, ACCUMULATE)


def pool_patches(
    maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int], patch_size: int = 3, patch_stride: int = 1
) -> Tensor:
    """Local patches of several maps, pooled to D values, resized to one grid and averaged.

    Args:
        maps: (B, C_l, H_l, W_l) each, fp32, bf16 or fp16, any strides; sums are fp32.
        embed_dim: D.
        grid: (H, W) of the result.

    Returns:
        (B, H, W, D) in the dtype of the maps.
    """
    batch = maps[0].shape[0]
    out = maps[0].new_empty(batch, *grid, embed_dim, dtype=torch.float32)
    if batch == 0:
        return out.to(maps[0].dtype)
    for number, m in enumerate(maps):
        lines, columns = ((n + (patch_size - 1) // 2 * 2 - patch_size) // patch_stride + 1 for n in m.shape[2:])
        same = (lines, columns) == tuple(grid)
        pooled = out if same else out.new_empty(batch, lines, columns, embed_dim)
        _pool_map(m, pooled, 1 / len(maps), patch_size, patch_stride, accumulate=same and number > 0)
        if not same:
            _resize_map(pooled, out, accumulate=number > 0)
    return out.to(maps[0].dtype)


def _pool_map(m: Tensor, out: Tensor, weight: float, side: int, stride: int, accumulate: bool) -> None:
    batch, lines, columns, dim = out.shape
    channels, tokens = m.shape[1], batch * lines * columns
    window = -(-channels * side**2 // dim) + 1  # values an output reads, at most
    # The axis that memory runs along is the fastest of a tile.
    pixels_first = m.stride(1) < m.stride(3)
    block_n, block_d = (16, fitting(dim, 128)) if pixels_first else (fitting(tokens, 64), 32)
    _pool[triton.cdiv(tokens, block_n), triton.cdiv(dim, block_d)](
        m, *m.stride(), out, *m.shape[1:], lines, columns, tokens, dim, -(-window // side**2), weight,
        SIDE=side, STRIDE=stride, PIXELS_FIRST=pixels_first, ACCUMULATE=accumulate, BLOCK_N=block_n, BLOCK_D=block_d,
        num_warps=8,
    )  # fmt: skip


def _resize_map(pooled: Tensor, out: Tensor, accumulate: bool) -> None:
    batch, height, width, dim = out.shape
    tokens, block_d = batch * height * width, fitting(dim, 128)
    _resize[triton.cdiv(tokens, 16), triton.cdiv(dim, block_d)](
        pooled, out, *pooled.shape[1:3], height, width, tokens, dim, ACCUMULATE=accumulate, BLOCK_N=16,
        BLOCK_D=block_d, num_warps=8,
    )  # fmt: skip
