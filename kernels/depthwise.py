"""Depthwise convolution of row-major tokens (B, H, W, C): zero padding, stride 1, odd kernel.

A program walks down some lines of an image with a block of channels: k loads a token instead of k * k, as each line is
read once and adds to the k lines around it. The next line is on its way while one is worked on.
"""

import triton
import triton.language as tl
from torch import Tensor

from .partials import add_partials
from .tiles import fitting
from .windows import load_taps


@triton.jit
def _place(channels, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, LINES: tl.constexpr, BLOCK_W: tl.constexpr,
           BLOCK_D: tl.constexpr):  # fmt: skip
    """Of this program: its number without the channels, its image, first line, columns and channels."""
    blocks = tl.cdiv(channels, BLOCK_D)
    d = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    part = tl.program_id(0) // blocks
    sides: tl.constexpr = (WIDTH + BLOCK_W - 1) // BLOCK_W
    stripes: tl.constexpr = (HEIGHT + LINES - 1) // LINES
    column = part % sides * BLOCK_W + tl.arange(0, BLOCK_W)
    return part, part // sides // stripes, part // sides % stripes * LINES, column, d


@triton.jit
def _load_line(ptr, line, column, d, channels, wanted, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TAPS: tl.constexpr):
    """TAPS tensors (BLOCK_W, BLOCK_D): tokens of a line from TAPS // 2 before each column; zero outside the image."""
    there = wanted & (line >= 0) & (line < HEIGHT)
    values = ()
    for tap in tl.static_range(TAPS):
        at = column + tap - TAPS // 2
        inside = (there & (at >= 0) & (at < WIDTH))[:, None] & (d < channels)[None, :]
        values = values + (tl.load(ptr + (line * WIDTH + at)[:, None] * channels + d[None, :], mask=inside, other=0.0),)
    return values


@triton.jit
def _depthwise(
    x_ptr, taps_ptr, bias_ptr, y_ptr, channels, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr,
    FLIPPED: tl.constexpr, LINES: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    _, image, first, column, d = _place(channels, HEIGHT, WIDTH, LINES, BLOCK_W, BLOCK_D)
    image = image.to(tl.int64) * (HEIGHT * WIDTH) * channels
    x, y, ok = x_ptr + image, y_ptr + image, (column < WIDTH)[:, None] & (d < channels)[None, :]
    taps = load_taps(taps_ptr + d[None, :], channels, (d < channels)[None, :], KERNEL, FLIPPED)
    fresh = tl.zeros((BLOCK_W, BLOCK_D), tl.float32)
    if not FLIPPED:
        fresh += tl.load(bias_ptr + d, mask=d < channels, other=0.0)[None, :]
    steps: tl.constexpr = LINES + KERNEL - 1
    line = first - KERNEL // 2
    values = _load_line(x, line, column, d, channels, True, HEIGHT, WIDTH, KERNEL)
    totals = (fresh,) * KERNEL  # of the lines around this one, the uppermost first
    for step in range(steps):
        following = _load_line(x, line + 1, column, d, channels, step + 1 < steps, HEIGHT, WIDTH, KERNEL)
        added = ()
        for above in tl.static_range(KERNEL):
            total = totals[above]
            for tap in tl.static_range(KERNEL):
                total += taps[(KERNEL - 1 - above) * KERNEL + tap] * values[tap]
            added = added + (total,)
        done = line - KERNEL // 2
        at = (done * WIDTH + column)[:, None] * channels + d[None, :]
        tl.store(y + at, added[0], mask=ok & (done >= first) & (done < HEIGHT))
        totals = added[1:] + (fresh,)
        values = following
        line += 1


@triton.jit
def _tap_sums(
    x_ptr, dy_ptr, sums_ptr, channels, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr,
    LINES: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    part, image, first, column, d = _place(channels, HEIGHT, WIDTH, LINES, BLOCK_W, BLOCK_D)
    image = image.to(tl.int64) * (HEIGHT * WIDTH) * channels
    x, dy = x_ptr + image, dy_ptr + image
    zero = tl.zeros((BLOCK_W, BLOCK_D), tl.float32)
    steps: tl.constexpr = LINES + KERNEL - 1
    line = first - KERNEL // 2
    values = _load_line(x, line, column, d, channels, True, HEIGHT, WIDTH, KERNEL)
    gradients = (zero,) * (KERNEL - 1) + _load_line(dy, first, column, d, channels, True, HEIGHT, WIDTH, 1)
    totals = (zero,) * (KERNEL * KERNEL + 1)
    for step in range(steps):
        following = _load_line(x, line + 1, column, d, channels, step + 1 < steps, HEIGHT, WIDTH, KERNEL)
        # A line of dy belongs to one program, as its k * k products do.
        below = _load_line(dy, first + step + 1, column, d, channels, step + 1 < LINES, HEIGHT, WIDTH, 1)
        added = ()
        for row in tl.static_range(KERNEL):
            for tap in tl.static_range(KERNEL):
                added = added + (totals[row * KERNEL + tap] + values[tap] * gradients[KERNEL - 1 - row],)
        totals = added + (totals[KERNEL * KERNEL] + gradients[KERNEL - 1],)
        gradients = gradients[1:] + below
        values = following
        line += 1
    sums = sums_ptr + part.to(tl.int64) * (KERNEL * KERNEL + 1) * channels + d
    for tap in tl.static_range(KERNEL * KERNEL + 1):
        tl.store(sums + tap * channels, tl.sum(totals[tap], 0), mask=d < channels)


def depthwise(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """y (B, H, W, C) of x (B, H, W, C), taps (k * k, C) and bias (C,), contiguous fp32.

    Without a bias the taps are taken in reverse order: the transposed convolution, which the gradient of x is.
    """
    y, channels = x.new_empty(x.shape), x.shape[-1]
    parts, blocks = _tiling(x, taps)
    _depthwise[(parts * triton.cdiv(channels, blocks["BLOCK_D"]),)](
        x, taps, taps if bias is None else bias, y, channels, FLIPPED=bias is None, **blocks
    )
    return y


def tap_gradients(x: Tensor, dy: Tensor, taps: Tensor, out: tuple[Tensor, Tensor]) -> None:
    """Gradients of `taps` (k * k, C) and of the bias (C,) for x and dy (B, H, W, C), into `out`."""
    channels = x.shape[-1]
    parts, blocks = _tiling(x, taps)
    sums = x.new_empty(parts, (len(taps) + 1) * channels)
    _tap_sums[(parts * triton.cdiv(channels, blocks["BLOCK_D"]),)](x, dy, sums, channels, **blocks)
    add_partials(sums, out)


def _tiling(x: Tensor, taps: Tensor) -> tuple[int, dict[str, int]]:
    """Parts of all images, some lines by some columns each, and blocks of 1024 numbers."""
    images, height, width, channels = x.shape
    kernel = round(len(taps) ** 0.5)
    lines = triton.cdiv(height, triton.cdiv(height, 8))
    block_w = fitting(width, 32)
    parts = images * triton.cdiv(height, lines) * triton.cdiv(width, block_w)
    # Eight numbers a thread; of 5 x 5 taps and their sums a thread has registers for four (7 x 7 spill).
    return parts, {
        "HEIGHT": height, "WIDTH": width, "KERNEL": kernel, "LINES": lines, "BLOCK_W": block_w,
        "BLOCK_D": fitting(channels, 1024 // block_w), "num_warps": 4 if kernel <= 3 else 8,
    }  # fmt: skip
