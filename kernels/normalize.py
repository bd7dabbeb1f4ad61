"""Bytes of images to what a backbone reads: normalised, channels-last, each pixel filled up with zeros."""

import triton
import triton.language as tl
from torch import Tensor

from .tiles import fitting


@triton.jit
def _look_up(
    pixels_ptr, image_stride, channel_stride, line_stride, column_stride, table_ptr, out_ptr, height, width, count,
    CHANNELS: tl.constexpr, FILLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, FILLED)
    ok = (n < count)[:, None] & (c < CHANNELS)[None, :]
    at = pixels_ptr + (n // (height * width)).to(tl.int64) * image_stride
    at += n // width % height * line_stride + n % width * column_stride
    byte = tl.load(at[:, None] + c[None, :] * channel_stride, mask=ok, other=0).to(tl.int32)
    value = tl.load(table_ptr + c[None, :] * 256 + byte, mask=ok, other=0.0)
    out = out_ptr + n.to(tl.int64)[:, None] * FILLED + c[None, :]
    tl.store(out, value, mask=(n < count)[:, None] & (c < FILLED)[None, :])


def look_up(pixels: Tensor, table: Tensor, out: Tensor) -> Tensor:
    """out (B, F, H, W), channels-last, = table[c, byte] for each byte of pixels (B, C, H, W), and zero from C on.

    Args:
        pixels: uint8, any strides.
        table: (C, 256), contiguous, in the dtype of `out`.
        out: F is a power of two.
    """
    batch, channels, height, width = pixels.shape
    count = batch * height * width
    block = fitting(count, 256)
    _look_up[(triton.cdiv(count, block),)](
        pixels, *pixels.stride(), table, out, height, width, count,
        CHANNELS=channels, FILLED=out.shape[1], BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out
