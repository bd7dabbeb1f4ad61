"""Patches of feature maps, pooled to D values a pixel at each map's own resolution, then resized and added up.

Pooling, resize and mean are linear and act on different axes, so the resize moves D values instead of C*k*k. An output
is a mean over consecutive values of a patch; tap by tap those are consecutive channels of one neighbour.

The windows repeat: with g = gcd(C, D), D/g outputs read C/g channels, and the next outputs the next channels the same
way. `_pool_groups` takes maps whose groups are small, channels-last (of a WideResNet-50-2 3 outputs of 2 and of 4
channels): it reads each neighbour's channels as they lie, 16 bytes at a time, and which value goes into which output is
known when it is compiled. `_pool_any` takes any map, one masked load a channel that an output may read.
"""

import math
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
def _pool_any(
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
def _resized(at, y, x, ok, lines, columns, height, width, dim):
    """Outputs of pixels (y, x) of images (lines, columns, dim) resized to (height, width).

    `at`: where each output of the images' first pixel stands.
    """
    top, bottom, down = _blend(y, lines, height)
    left, right, across = _blend(x, columns, width)
    value = tl.zeros(ok.shape, tl.float32)
    # Not unrolled: addresses and values of all four at once would not fit in registers.
    for below in range(0, 2):
        line = tl.where(below == 0, top, bottom) * columns
        a = tl.load(at + ((line + left) * dim)[:, None], mask=ok, other=0.0)
        b = tl.load(at + ((line + right) * dim)[:, None], mask=ok, other=0.0)
        share = tl.where(below == 0, 1.0 - down, down)
        value += share[:, None] * ((1.0 - across)[:, None] * a + across[:, None] * b)
    return value


@triton.jit
def _resize(
    pooled_ptr, out_ptr, lines, columns, height, width, tokens, dim,
    ACCUMULATE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    ok = (n < tokens)[:, None] & (d < dim)[None, :]
    image = (n // (height * width)).to(tl.int64) * lines * columns
    at = pooled_ptr + image[:, None] * dim + d[None, :]
    value = _resized(at, n // width % height, n % width, ok, lines, columns, height, width, dim)
    _store(out_ptr, n, d, tokens, dim, value, ACCUMULATE)


@triton.jit
def _channels(x, INPUTS: tl.constexpr):
    """The channels of each group, (pixels, groups) each, of x (pixels, groups * INPUTS)."""
    if INPUTS == 1:
        return (x,)
    elif INPUTS == 2:  # noqa: RET505 - Triton compiles what follows a return
        return tl.split(x.reshape(x.shape[0], x.shape[1] // 2, 2))
    else:
        even, odd = tl.split(x.reshape(x.shape[0], x.shape[1] // 4, 2, 2))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        return first, second, third, fourth


@triton.constexpr_function
def _reads(output, value, values, outputs):
    """Whether value number `value` of a group's `values` is in the window of an output."""
    return output * values // outputs <= value and value * outputs < (output + 1) * values


@triton.jit
def _add_tap(
    total, channels, output: tl.constexpr, tap: tl.constexpr,
    TAPS: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """`total` of output number `output` of each group, with what it reads of this tap."""
    for c in tl.static_range(INPUTS):
        if output < OUTPUTS and _reads(output, c * TAPS + tap, INPUTS * TAPS, OUTPUTS):
            total += channels[c]
    return total


@triton.jit
def _mean(total, output: tl.constexpr, weight, VALUES: tl.constexpr, OUTPUTS: tl.constexpr):
    begin: tl.constexpr = output * VALUES // OUTPUTS
    end: tl.constexpr = ((output + 1) * VALUES + OUTPUTS - 1) // OUTPUTS
    return total * (weight / (end - begin))


@triton.jit
def _pool_groups(
    map_ptr, other_ptr, out_ptr, sums_ptr, channels, height, width, dim, other_lines, other_columns, weight,
    SIDE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, JOINED: tl.constexpr, OTHER: tl.constexpr,
    ACCUMULATE: tl.constexpr, SUMS: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """OUTPUTS means of the INPUTS channels of each of GROUPS groups, for LINES x COLUMNS pixels.

    With OTHER another map's outputs are added, resized to this map's size. With SUMS a row of sums (tiles, dim) is
    what these pixels add to the mean of their image.
    """
    TAPS: tl.constexpr = SIDE * SIDE
    across, along = tl.cdiv(width, COLUMNS), tl.arange(0, LINES * COLUMNS)
    tiles = across * tl.cdiv(height, LINES)
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    y, x = tile // across * LINES + along // COLUMNS, tile % across * COLUMNS + along % COLUMNS
    c = tl.program_id(1) * GROUPS * INPUTS + tl.arange(0, GROUPS * INPUTS)
    first = image.to(tl.int64) * height * width
    at = map_ptr + first * channels + (y * width + x)[:, None] * channels + c[None, :]
    zero = tl.zeros((LINES * COLUMNS, GROUPS), tl.float32)
    a, b, e, f = zero, zero, zero, zero
    for tap in tl.static_range(TAPS):
        down, right = tap // SIDE - SIDE // 2, tap % SIDE - SIDE // 2
        inside = (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
        mask = inside[:, None] & (c < channels)[None, :]
        read = tl.load(at + (down * width + right) * channels, mask=mask, other=0.0).to(tl.float32)
        each = _channels(read, INPUTS)
        a = _add_tap(a, each, 0, tap, TAPS, INPUTS, OUTPUTS)
        b = _add_tap(b, each, 1, tap, TAPS, INPUTS, OUTPUTS)
        e = _add_tap(e, each, 2, tap, TAPS, INPUTS, OUTPUTS)
        f = _add_tap(f, each, 3, tap, TAPS, INPUTS, OUTPUTS)
    VALUES: tl.constexpr = INPUTS * TAPS
    value = _mean(a, 0, weight, VALUES, OUTPUTS)
    if JOINED >= 2:
        value = tl.join(value, _mean(b, 1, weight, VALUES, OUTPUTS))
    if JOINED == 4:
        rest = tl.join(_mean(e, 2, weight, VALUES, OUTPUTS), _mean(f, 3, weight, VALUES, OUTPUTS))
        value = tl.join(value, rest).permute(0, 1, 3, 2)  # (pixels, groups, 2, 2)
    value = value.reshape(LINES * COLUMNS, GROUPS * JOINED)
    k = tl.arange(0, GROUPS * JOINED)
    group = tl.program_id(1) * GROUPS + k // JOINED
    d = group * OUTPUTS + k % JOINED
    ok = ((y < height) & (x < width))[:, None] & ((k % JOINED < OUTPUTS) & (d < dim))[None, :]
    if OTHER:
        other = other_ptr + image.to(tl.int64) * other_lines * other_columns * dim + d[None, :]
        value += _resized(other, y, x, ok, other_lines, other_columns, height, width, dim)
    out = out_ptr + (first + y * width + x)[:, None] * dim + d[None, :]
    if ACCUMULATE:
        value += tl.load(out, mask=ok, other=0.0)
    tl.store(out, value, mask=ok)
    if SUMS:
        share = tl.sum(tl.where(ok, value, 0.0), 0) / (height * width)
        tl.store(sums_ptr + tl.program_id(0).to(tl.int64) * dim + d, share, mask=(k % JOINED < OUTPUTS) & (d < dim))


def pool_patches(
    maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int], patch_size: int = 3, patch_stride: int = 1
) -> Tensor:
    """Local patches of several maps, pooled to D values, resized to one grid and averaged.

    Args:
        maps: (B, C_l, H_l, W_l) each, fp32, bf16 or fp16, any strides; sums are fp32.
        embed_dim: D.
        grid: (H, W) of the result.

    Returns:
        (B, H, W, D) fp32.
    """
    return _pooled(maps, embed_dim, grid, patch_size, patch_stride, with_sums=False)[0]


def pool_patches_and_means(
    maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int], patch_size: int = 3, patch_stride: int = 1
) -> tuple[Tensor, Tensor]:
    """`pool_patches`, and the mean over the patches of each image (B, D)."""
    out, sums = _pooled(maps, embed_dim, grid, patch_size, patch_stride, with_sums=True)
    return out, out.mean((1, 2)) if sums is None else sums.sum(1)


def _pooled(
    maps: Sequence[Tensor], embed_dim: int, grid: tuple[int, int], patch_size: int, patch_stride: int, with_sums: bool
) -> tuple[Tensor, Tensor | None]:
    """Patches, and what each tile of them adds to the means of its image (B, tiles, D); None where nothing added up."""
    batch = maps[0].shape[0]
    out = maps[0].new_empty(batch, *grid, embed_dim, dtype=torch.float32)
    if batch == 0:
        return out, None
    sizes = [_size(m, patch_size, patch_stride) for m in maps]
    share = 1 / len(maps)
    others: list[Tensor] = []
    for m, size in zip(maps, sizes, strict=True):
        if size != tuple(grid):
            pooled = out.new_empty(batch, *size, embed_dim)
            _pool_map(m, pooled, share, patch_size, patch_stride, accumulate=False)
            others.append(pooled)
    on_grid = [m for m, size in zip(maps, sizes, strict=True) if size == tuple(grid)]
    sums = None
    for number, m in enumerate(on_grid):
        is_last = number + 1 == len(on_grid) and len(others) <= 1
        sums = _pool_map(m, out, share, patch_size, patch_stride, number > 0, others, with_sums and is_last)
    for number, pooled in enumerate(others):
        _resize_map(pooled, out, accumulate=bool(on_grid) or number > 0)
    return out, sums


def _size(m: Tensor, side: int, stride: int) -> tuple[int, int]:
    """Lines and columns of a map's patches."""
    lines, columns = ((n + (side - 1) // 2 * 2 - side) // stride + 1 for n in m.shape[2:])
    return lines, columns


def _pool_map(
    m: Tensor, out: Tensor, weight: float, side: int, stride: int, accumulate: bool,
    others: list[Tensor] | None = None, with_sums: bool = False,
) -> Tensor | None:  # fmt: skip
    """Write or add a map's outputs to `out`; takes one of `others` along, and off the list, where it can.

    Returns:
        With `with_sums`, where it can, what each tile adds to the mean of its image (B, tiles, D).
    """
    channels, dim = m.shape[1], out.shape[3]
    groups = math.gcd(channels, dim)
    inputs, outputs = channels // groups, dim // groups
    takes = inputs in (1, 2, 4) and outputs <= 4 and side % 2 == 1 and stride == 1
    if not (takes and m.is_contiguous(memory_format=torch.channels_last)):
        _launch_any(m, out, weight, side, stride, accumulate)
        return None
    other = others.pop() if others else None
    # A thread reads 16 bytes of bf16 a tap: 256 channels of 2 x 4 pixels, which share 24 neighbours. With the resize
    # sm_90 would take 128 registers, of which two programs fit on a multiprocessor; 80 are enough, for three.
    lines, columns, block = 2, 4, fitting(groups, 256 // inputs)
    _, _, height, width = m.shape
    tiles = triton.cdiv(height, lines) * triton.cdiv(width, columns)
    sums = out.new_empty(len(m), tiles, dim) if with_sums else None
    _pool_groups[len(m) * tiles, triton.cdiv(groups, block)](
        m, out if other is None else other, out, out if sums is None else sums, channels, height, width, dim,
        *(out if other is None else other).shape[1:3], weight, SIDE=side, INPUTS=inputs, OUTPUTS=outputs,
        JOINED=triton.next_power_of_2(outputs), OTHER=other is not None, ACCUMULATE=accumulate,
        SUMS=with_sums, LINES=lines,
        COLUMNS=columns, GROUPS=block, num_warps=8, maxnreg=80,
    )  # fmt: skip
    return sums


def _launch_any(m: Tensor, out: Tensor, weight: float, side: int, stride: int, accumulate: bool) -> None:
    batch, lines, columns, dim = out.shape
    channels, tokens = m.shape[1], batch * lines * columns
    window = -(-channels * side**2 // dim) + 1  # values an output reads, at most
    # The axis that memory runs along is the fastest of a tile.
    pixels_first = m.stride(1) < m.stride(3)
    block_n, block_d = (16, fitting(dim, 128)) if pixels_first else (fitting(tokens, 64), 32)
    _pool_any[triton.cdiv(tokens, block_n), triton.cdiv(dim, block_d)](
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
