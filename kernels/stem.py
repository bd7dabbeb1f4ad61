"""The first convolution of a network, 7 x 7 with stride 2, as a product over blocks of 2 x 2 pixels.

In blocks of 16 values, 2 x 2 pixels of 4 channels, it is 4 x 4 with stride 1, and what an output reads of a line of
blocks are 64 values in a row. See `ops.stem` for the layout.
"""

import triton
import triton.language as tl
from torch import Tensor

from .tiles import fitting


@triton.jit
def _stem(
    x_ptr, weight_ptr, bias_ptr, y_ptr, rows, columns, lines, width, pixels, outputs,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, 64)
    first = ((n // (lines * width)).to(tl.int64) * rows + n // width % lines) * columns + n % width
    x = x_ptr + first[:, None] * 16 + k[None, :]
    weight = weight_ptr + m[None, :] * 256 + k[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for line in range(0, 4):
        a = tl.load(x + line * columns * 16, mask=(n < pixels)[:, None], other=0.0)
        b = tl.load(weight + line * 64, mask=(m < outputs)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
    acc += tl.load(bias_ptr + m, mask=m < outputs, other=0.0).to(tl.float32)[None, :]
    acc = tl.where(acc < 0.0, 0.0, acc).to(y_ptr.dtype.element_ty)  # NaN stays NaN
    out = y_ptr + n.to(tl.int64)[:, None] * outputs + m[None, :]
    tl.store(out, acc, mask=(n < pixels)[:, None] & (m < outputs)[None, :])


@triton.jit
def _look_up_blocks(
    pixels_ptr, image_stride, channel_stride, line_stride, column_stride, table_ptr, out_ptr, height, width, rows,
    columns, count, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.arange(0, 16)
    c = (j % 4)[None, :]
    y = (2 * (n // columns % rows) - 4)[:, None] + (j // 8)[None, :]
    x = (2 * (n % columns) - 4)[:, None] + (j // 4 % 2)[None, :]
    ok = (n < count)[:, None] & (c < CHANNELS) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    image = pixels_ptr + (n // (columns * rows)).to(tl.int64)[:, None] * image_stride
    at = image + c * channel_stride + y * line_stride + x * column_stride
    byte = tl.load(at, mask=ok, other=0).to(tl.int32)
    value = tl.load(table_ptr + c * 256 + byte, mask=ok, other=0.0)
    tl.store(out_ptr + n.to(tl.int64)[:, None] * 16 + j[None, :], value, mask=(n < count)[:, None])


def stem(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """out (B, H, W, M) = relu(the product + bias) of x (B, H + 3, W + 3, 16), all contiguous, bf16 or fp16.

    Args:
        weight: (M, 4, 64), see `ops.stem`.
        bias: (M,).
    """
    batch, lines, width, outputs = out.shape
    pixels = batch * lines * width
    block_n, block_m = fitting(pixels, 128), fitting(outputs, 64)
    _stem[triton.cdiv(pixels, block_n), triton.cdiv(outputs, block_m)](
        x, weight, bias, out, *x.shape[1:3], lines, width, pixels, outputs, BLOCK_N=block_n, BLOCK_M=block_m,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


def look_up_blocks(pixels: Tensor, table: Tensor, out: Tensor) -> Tensor:
    """Blocks (B, R, S, 16) of pixels (B, C, H, W), uint8, of any strides, as `table` (C, 256) normalises them."""
    _, channels, height, width = pixels.shape
    count = out.numel() // 16
    block = fitting(count, 128)
    _look_up_blocks[(triton.cdiv(count, block),)](
        pixels, *pixels.stride(), table, out, height, width, *out.shape[1:3], count, CHANNELS=channels, BLOCK=block,
        num_warps=4,
    )  # fmt: skip
    return out
