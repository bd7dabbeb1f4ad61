"""Depthwise convolution of row-major tokens (B, H, W, C): zero padding, stride 1, odd kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import neighbour
from .products import fitting


@triton.jit
def _depthwise(
    x_ptr, taps_ptr, bias_ptr, y_ptr, tokens, channels, height, width,
    KERNEL: tl.constexpr, FLIPPED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    d_ok = d < channels
    y = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if not FLIPPED:
        y += tl.load(bias_ptr + d, mask=d_ok, other=0.0)[None, :]
    for tap in tl.static_range(KERNEL * KERNEL):
        at, inside = neighbour(n, tap, KERNEL, height, width, n < tokens)
        x = tl.load(
            x_ptr + at.to(tl.int64)[:, None] * channels + d[None, :], mask=inside[:, None] & d_ok[None, :], other=0.0
        )
        weights = taps_ptr + (KERNEL * KERNEL - 1 - tap if FLIPPED else tap) * channels + d
        y += tl.load(weights, mask=d_ok, other=0.0)[None, :] * x
    tl.store(
        y_ptr + n.to(tl.int64)[:, None] * channels + d[None, :], y, mask=(n < tokens)[:, None] & d_ok[None, :]
    )


@triton.jit
def _tap_sums(
    x_ptr, dy_ptr, sums_ptr, tokens, channels, height, width,
    KERNEL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    d_ok = d < channels
    dy = tl.load(
        dy_ptr + n.to(tl.int64)[:, None] * channels + d[None, :], mask=(n < tokens)[:, None] & d_ok[None, :], other=0.0
    )
    sums = sums_ptr + tl.program_id(0).to(tl.int64) * (KERNEL * KERNEL + 1) * channels + d
    for tap in tl.static_range(KERNEL * KERNEL):
        at, inside = neighbour(n, tap, KERNEL, height, width, n < tokens)
        x = tl.load(
            x_ptr + at.to(tl.int64)[:, None] * channels + d[None, :], mask=inside[:, None] & d_ok[None, :], other=0.0
        )
        tl.store(sums + tap * channels, tl.sum(x * dy, 0), mask=d_ok)
    tl.store(sums + KERNEL * KERNEL * channels, tl.sum(dy, 0), mask=d_ok)


def depthwise(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """y (B, H, W, C) of x (B, H, W, C), taps (k * k, C) and bias (C,), contiguous fp32.

    Without a bias the taps are taken in reverse order: the transposed convolution, which the gradient of x is.
    """
    y = x.new_empty(x.shape)
    tokens, channels = x.numel() // max(1, x.shape[-1]), x.shape[-1]
    programs, blocks = _tiling(tokens, channels)
    _depthwise[programs](
        x, taps, taps if bias is None else bias, y, tokens, channels, x.shape[1], x.shape[2],
        KERNEL=_side(taps), FLIPPED=bias is None, **blocks,
    )  # fmt: skip
    return y


def tap_gradients(x: Tensor, dy: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `taps` (k * k, C) and of the bias (C,) for x and dy (B, H, W, C)."""
    tokens, channels = x.numel() // max(1, x.shape[-1]), x.shape[-1]
    programs, blocks = _tiling(tokens, channels)
    sums = x.new_empty(programs[0], len(taps) + 1, channels, dtype=torch.float32)
    _tap_sums[programs](x, dy, sums, tokens, channels, x.shape[1], x.shape[2], KERNEL=_side(taps), **blocks)
    return sums[:, :-1].sum(0), sums[:, -1].sum(0)


def _side(taps: Tensor) -> int:
    return round(len(taps) ** 0.5)


def _tiling(tokens: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    # Nine taps in flight: 32 tokens with four warps spill 3,600 bytes on sm_90, 16 with eight take 80 registers.
    blocks = {"BLOCK_N": fitting(tokens, 16), "BLOCK_D": fitting(channels, 128)}
    programs = (triton.cdiv(tokens, blocks["BLOCK_N"]), triton.cdiv(channels, blocks["BLOCK_D"]))
    return programs, {**blocks, "num_warps": 8}
