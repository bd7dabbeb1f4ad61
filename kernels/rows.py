"""Rows of the state as a network reads them: chosen by index, cast, with their depthwise context below them.

The context c = bias + taps * x1 is a k x k convolution over each image of a row, zero beyond its edges.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import neighbour, room
from .products import fitting


@triton.jit
def _gather_rows(
    state_ptr, state_stride, rows_ptr, pending_ptr, taps_ptr, taps_bias_ptr, out_ptr, out_stride, channels, tokens,
    height, width, KERNEL: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ok, fits = columns < tokens, columns < room(tokens)
    row = tl.load(rows_ptr + channel)
    scale, offset = tl.load(pending_ptr + 2 * row), tl.load(pending_ptr + 2 * row + 1)
    source = state_ptr + row.to(tl.int64) * state_stride
    out = out_ptr + channel.to(tl.int64) * out_stride + columns
    x1 = tl.load(source + columns, mask=fits, other=0.0) * scale + offset
    tl.store(out, x1.to(out_ptr.dtype.element_ty), mask=fits)
    if KERNEL > 0:
        c = tl.zeros((BLOCK_N,), tl.float32) + tl.load(taps_bias_ptr + channel)
        for tap in tl.static_range(KERNEL * KERNEL):
            at, inside = neighbour(columns, tap, KERNEL, height, width, ok)
            value = tl.load(source + at, mask=inside, other=0.0) * scale + offset
            c += tl.load(taps_ptr + tap * channels + channel) * tl.where(inside, value, 0.0)
        out = out_ptr + (channel + channels).to(tl.int64) * out_stride + columns
        tl.store(out, c.to(out_ptr.dtype.element_ty), mask=fits)


@triton.jit
def _scatter_gradient(
    dx_ptr, dx_stride, rows_ptr, affine_ptr, taps_ptr, grad_ptr, grad_stride, channels, tokens, height, width,
    KERNEL: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ok, fits = columns < tokens, columns < room(tokens)
    grad = grad_ptr + tl.load(rows_ptr + channel).to(tl.int64) * grad_stride + columns
    source = dx_ptr + channel.to(tl.int64) * dx_stride
    total = tl.load(grad, mask=fits, other=0.0) * tl.load(affine_ptr + 2 * channel)
    total += tl.load(source + columns, mask=fits, other=0.0)
    if KERNEL > 0:
        context = dx_ptr + (channel + channels).to(tl.int64) * dx_stride
        # The transposed convolution of an odd kernel is the convolution with the taps in reverse order.
        for tap in tl.static_range(KERNEL * KERNEL):
            at, inside = neighbour(columns, tap, KERNEL, height, width, ok)
            weight = tl.load(taps_ptr + (KERNEL * KERNEL - 1 - tap) * channels + channel)
            total += weight * tl.load(context + at, mask=inside, other=0.0)
    tl.store(grad, total, mask=fits)


@triton.jit
def _taps_gradient(
    x1_ptr, x1_stride, dc_ptr, dc_stride, sums_ptr, channels, tokens, height, width,
    KERNEL: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ok, fits = columns < tokens, columns < room(tokens)
    x1 = x1_ptr + channel.to(tl.int64) * x1_stride
    dc = tl.load(dc_ptr + channel.to(tl.int64) * dc_stride + columns, mask=fits, other=0.0).to(tl.float32)
    dc = tl.where(ok, dc, 0.0)
    sums = sums_ptr + tl.program_id(1) * (KERNEL * KERNEL + 1) * channels + channel
    for tap in tl.static_range(KERNEL * KERNEL):
        at, inside = neighbour(columns, tap, KERNEL, height, width, ok)
        product = tl.load(x1 + at, mask=inside, other=0.0).to(tl.float32) * dc
        tl.store(sums + tap * channels, tl.sum(product, 0))
    tl.store(sums + KERNEL * KERNEL * channels, tl.sum(dc, 0))


def gather_rows(
    state: Tensor, rows: Tensor, pending: Tensor, out: Tensor, context: tuple[Tensor, Tensor] | None,
    grid: tuple[int, int, int],
) -> Tensor:  # fmt: skip
    """out[i] = row rows[i] of the state with its pending scale and offset; the context channels of all below them.

    Args:
        state: (D, N) fp32; rows (C,) int32; pending (D, 2) fp32.
        out: (C, N), or (2 C, N) with context.
        context: taps (k * k, C) and bias (C,), fp32.
        grid: images, H, W with N = images * H * W.
    """
    taps, taps_bias = context or (state, state)
    kernel = 0 if context is None else round(taps.shape[0] ** 0.5)
    _gather_rows[_programs(rows, state)](
        state, state.stride(0), rows, pending, taps, taps_bias, out, out.stride(0), rows.shape[0], state.shape[1],
        grid[1], grid[2], KERNEL=kernel, BLOCK_N=_block(state),
    )  # fmt: skip
    return out


def scatter_gradient(
    dx: Tensor, rows: Tensor, affine: Tensor, taps: Tensor | None, grad: Tensor, grid: tuple[int, int, int]
) -> None:
    """Row rows[i] of grad (D, N) becomes grad * affine[i, 0] + dx[i], with a context also its transposed convolution.

    Args:
        dx: (C, N), or (2 C, N) with the gradient of the context channels below.
        affine: (C, 2) fp32, of which the offsets are not used.
    """
    kernel = 0 if taps is None else round(taps.shape[0] ** 0.5)
    _scatter_gradient[_programs(rows, grad)](
        dx, dx.stride(0), rows, affine, grad if taps is None else taps, grad, grad.stride(0), rows.shape[0],
        grad.shape[1], grid[1], grid[2], KERNEL=kernel, BLOCK_N=_block(grad),
    )  # fmt: skip


def taps_gradient(
    x1: Tensor, dc: Tensor, kernel: int, grid: tuple[int, int, int], out: tuple[Tensor, Tensor]
) -> None:
    """Into `out` gradients of taps (k * k, C) and bias (C,), of inputs x1 (C, N) and context gradients dc (C, N)."""
    channels, tokens = x1.shape
    programs = (channels, triton.cdiv(tokens, _block(x1)))
    sums = x1.new_empty(programs[1], kernel * kernel + 1, channels, dtype=torch.float32)
    _taps_gradient[programs](
        x1, x1.stride(0), dc, dc.stride(0), sums, channels, tokens, grid[1], grid[2], KERNEL=kernel,
        BLOCK_N=_block(x1),
    )  # fmt: skip
    torch.sum(sums[:, :-1], 0, out=out[0])
    torch.sum(sums[:, -1], 0, out=out[1])


def _programs(rows: Tensor, state: Tensor) -> tuple[int, int]:
    return rows.shape[0], triton.cdiv(state.shape[1], _block(state))


def _block(state: Tensor) -> int:
    return fitting(state.shape[1], 1024)
