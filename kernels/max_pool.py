"""Max pooling of channels-last images: square window, its padding never the largest."""

import triton
import triton.language as tl
from torch import Tensor

from .tiles import fitting


@triton.jit
def _max_pool(
    x_ptr, y_ptr, channels, height, width, lines, columns, pixels,
    SIDE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    top, left = n // columns % lines * STRIDE - PADDING, n % columns * STRIDE - PADDING
    image = (n // (columns * lines)).to(tl.int64) * height
    largest = tl.full((BLOCK_N, BLOCK_C), -float("inf"), tl.float32)
    for tap in tl.static_range(SIDE * SIDE):
        y, x = top + tap // SIDE, left + tap % SIDE
        inside = (n < pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        at = x_ptr + ((image + y) * width + x)[:, None] * channels + c[None, :]
        value = tl.load(at, mask=inside[:, None] & (c < channels)[None, :], other=-float("inf")).to(tl.float32)
        largest = tl.where((value > largest) | (value != value), value, largest)
    out = y_ptr + n.to(tl.int64)[:, None] * channels + c[None, :]
    tl.store(out, largest.to(y_ptr.dtype.element_ty), mask=(n < pixels)[:, None] & (c < channels)[None, :])


def max_pool(x: Tensor, side: int, stride: int, padding: int, out: Tensor) -> Tensor:
    """out (B, C, H', W') of x (B, C, H, W), both channels-last; NaN is the largest."""
    (_, channels, height, width), (batch, _, lines, columns) = x.shape, out.shape
    pixels, block_c = batch * lines * columns, fitting(channels, 64)
    _max_pool[triton.cdiv(pixels, 32), triton.cdiv(channels, block_c)](
        x, out, channels, height, width, lines, columns, pixels, SIDE=side, STRIDE=stride, PADDING=padding,
        BLOCK_N=32, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return out
