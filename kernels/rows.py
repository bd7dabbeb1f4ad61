"""Rows of the state as a network reads them: chosen by index, cast, with their depthwise context below them.

The context c = bias + taps * x1 is a k x k convolution over each image of a row, zero beyond its edges. H and W are
compiled in, so that no place of a token costs a division.
"""

import triton
import triton.language as tl
from torch import Tensor

from .elementary import room
from .partials import add_partials
from .tiles import fitting
from .windows import convolve, load_group, load_taps, load_window, place, span, store_group

# Tokens whose products one program of `taps_gradient` adds up.
STRIPE = 1024


@triton.jit
def _gather_rows(
    state_ptr, state_stride, rows_ptr, pending_ptr, out_ptr, out_stride, tokens, BLOCK_N: tl.constexpr
):  # fmt: skip
    channel = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    fits = columns < room(tokens)
    row = tl.load(rows_ptr + channel)
    scale, offset = tl.load(pending_ptr + 2 * row), tl.load(pending_ptr + 2 * row + 1)
    x = tl.load(state_ptr + row.to(tl.int64) * state_stride + columns, mask=fits, other=0.0) * scale + offset
    tl.store(out_ptr + channel.to(tl.int64) * out_stride + columns, x.to(out_ptr.dtype.element_ty), mask=fits)


@triton.jit
def _gather_with_context(
    state_ptr, state_stride, rows_ptr, pending_ptr, taps_ptr, bias_ptr, out_ptr, out_stride, channels, tokens,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, SPAN: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    first = group * SPAN
    ok, fits = first < tokens, first < room(tokens)
    line, column = place(group, HEIGHT, WIDTH, SPAN)
    row = tl.load(rows_ptr + channel)
    affine = (tl.load(pending_ptr + 2 * row), tl.load(pending_ptr + 2 * row + 1))
    taps = load_taps(taps_ptr + channel, channels, None, KERNEL, FLIPPED=False)
    source = state_ptr + row.to(tl.int64) * state_stride + first
    out = out_ptr + channel.to(tl.int64) * out_stride + first
    reach: tl.constexpr = KERNEL // 2
    totals = ()
    for _ in tl.static_range(SPAN):
        totals = totals + (tl.zeros((GROUPS,), tl.float32) + tl.load(bias_ptr + channel),)
    for down in tl.static_range(-reach, reach + 1):
        values = load_window(source, line, column, ok, affine, down, HEIGHT, WIDTH, KERNEL, SPAN)
        totals = convolve(totals, values, taps, down, KERNEL, SPAN)
        if down == 0:
            store_group(out, values[reach : reach + SPAN], fits, SPAN)
    store_group(out + channels.to(tl.int64) * out_stride, totals, fits, SPAN)


@triton.jit
def _scatter_gradient(
    dx_ptr, dx_stride, rows_ptr, affine_ptr, grad_ptr, grad_stride, tokens, BLOCK_N: tl.constexpr
):  # fmt: skip
    channel = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    fits = columns < room(tokens)
    grad = grad_ptr + tl.load(rows_ptr + channel).to(tl.int64) * grad_stride + columns
    total = tl.load(grad, mask=fits, other=0.0) * tl.load(affine_ptr + 2 * channel)
    total += tl.load(dx_ptr + channel.to(tl.int64) * dx_stride + columns, mask=fits, other=0.0)
    tl.store(grad, total, mask=fits)


@triton.jit
def _scatter_with_context(
    dx_ptr, dx_stride, rows_ptr, affine_ptr, taps_ptr, grad_ptr, grad_stride, channels, tokens,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, SPAN: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    first = group * SPAN
    ok, fits = first < tokens, first < room(tokens)
    line, column = place(group, HEIGHT, WIDTH, SPAN)
    scale = tl.load(affine_ptr + 2 * channel)
    taps = load_taps(taps_ptr + channel, channels, None, KERNEL, FLIPPED=True)
    grad = grad_ptr + tl.load(rows_ptr + channel).to(tl.int64) * grad_stride + first
    dx = dx_ptr + channel.to(tl.int64) * dx_stride + first
    context = dx + channels.to(tl.int64) * dx_stride
    reach: tl.constexpr = KERNEL // 2
    before, direct = load_group(grad, fits, SPAN), load_group(dx, fits, SPAN)
    totals = ()
    for index in tl.static_range(SPAN):
        totals = totals + (before[index] * scale + direct[index],)
    for down in tl.static_range(-reach, reach + 1):
        values = load_window(context, line, column, ok, None, down, HEIGHT, WIDTH, KERNEL, SPAN)
        totals = convolve(totals, values, taps, down, KERNEL, SPAN)
    store_group(grad, totals, fits, SPAN)


@triton.jit
def _taps_gradient(
    x1_ptr, x1_stride, dc_ptr, dc_stride, sums_ptr, channels, tokens, STEPS: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, SPAN: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    x1 = x1_ptr + channel.to(tl.int64) * x1_stride
    dc = dc_ptr + channel.to(tl.int64) * dc_stride
    reach: tl.constexpr = KERNEL // 2
    totals = ()
    for _ in tl.static_range(KERNEL * KERNEL + 1):
        totals = totals + (tl.zeros((GROUPS,), tl.float32),)
    for step in range(STEPS):
        group = (tl.program_id(1) * STEPS + step) * GROUPS + tl.arange(0, GROUPS)
        first = group * SPAN
        ok = first < tokens
        line, column = place(group, HEIGHT, WIDTH, SPAN)
        gradient = load_group(dc + first, ok, SPAN)
        added = ()
        for down in tl.static_range(-reach, reach + 1):
            values = load_window(x1 + first, line, column, ok, None, down, HEIGHT, WIDTH, KERNEL, SPAN)
            for tap in tl.static_range(KERNEL):
                total = totals[(down + reach) * KERNEL + tap]
                for index in tl.static_range(SPAN):
                    total += gradient[index] * values[index + tap]
                added = added + (total,)
        total = totals[KERNEL * KERNEL]
        for index in tl.static_range(SPAN):
            total += gradient[index]
        totals = added + (total,)
    sums = sums_ptr + tl.program_id(1) * (KERNEL * KERNEL + 1) * channels + channel
    for tap in tl.static_range(KERNEL * KERNEL + 1):
        tl.store(sums + tap * channels, tl.sum(totals[tap], 0))


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
    channels, tokens = rows.shape[0], state.shape[1]
    operands = (state, state.stride(0), rows, pending)
    if context is None:
        block = fitting(tokens, 1024)
        programs = (channels, triton.cdiv(tokens, block))
        _gather_rows[programs](*operands, out, out.stride(0), tokens, BLOCK_N=block)
        return out
    programs, blocks = _tiling(channels, tokens, grid, context[0])
    _gather_with_context[programs](*operands, *context, out, out.stride(0), channels, tokens, **blocks)
    return out


def scatter_gradient(
    dx: Tensor, rows: Tensor, affine: Tensor, taps: Tensor | None, grad: Tensor, grid: tuple[int, int, int]
) -> None:
    """Row rows[i] of grad (D, N) becomes grad * affine[i, 0] + dx[i], with a context also its transposed convolution.

    Args:
        dx: (C, N), or (2 C, N) with the gradient of the context channels below.
        affine: (C, 2) fp32, of which the offsets are not used.
    """
    channels, tokens = rows.shape[0], grad.shape[1]
    operands = (dx, dx.stride(0), rows, affine)
    if taps is None:
        block = fitting(tokens, 1024)
        programs = (channels, triton.cdiv(tokens, block))
        _scatter_gradient[programs](*operands, grad, grad.stride(0), tokens, BLOCK_N=block)
        return
    programs, blocks = _tiling(channels, tokens, grid, taps)
    _scatter_with_context[programs](*operands, taps, grad, grad.stride(0), channels, tokens, **blocks)


def taps_gradient(x1: Tensor, dc: Tensor, kernel: int, grid: tuple[int, int, int], out: tuple[Tensor, Tensor]) -> None:
    """Gradients of taps (k * k, C) and bias (C,) for inputs x1 (C, N) and context gradients dc (C, N), into `out`."""
    channels, tokens = x1.shape
    stripes, width = triton.cdiv(tokens, STRIPE), span(grid[2])
    # A warp a program: its sums need no barrier. Two groups a thread are in flight.
    groups = min(64, STRIPE // width)
    steps = triton.cdiv(min(tokens, STRIPE), groups * width)
    sums = x1.new_empty(stripes, (kernel * kernel + 1) * channels, dtype=out[0].dtype)
    _taps_gradient[(channels, stripes)](
        x1, x1.stride(0), dc, dc.stride(0), sums, channels, tokens, STEPS=steps,
        HEIGHT=grid[1], WIDTH=grid[2], KERNEL=kernel, SPAN=width, GROUPS=groups, num_warps=1,
    )  # fmt: skip
    add_partials(sums, out)


def _tiling(
    channels: int, tokens: int, grid: tuple[int, int, int], taps: Tensor
) -> tuple[tuple[int, int], dict[str, int]]:
    """Programs of a channel and 1024 tokens: two groups of four tokens a thread."""
    block, width = fitting(tokens, 1024), span(grid[2])
    blocks = {"HEIGHT": grid[1], "WIDTH": grid[2], "KERNEL": round(taps.shape[0] ** 0.5), "SPAN": width}
    return (channels, triton.cdiv(tokens, block)), {**blocks, "GROUPS": block // width, "num_warps": 4}
