"""Gaussian fronts of several tasks on a batch whose images say which they take; row-major tokens, two launches.

Whitening is one product of x + bias with the lower triangle of a task, in tiles of tokens of one image. Directions
differ from position to position, so there a program has a position and 16 images, ordered by task on the device: it
reads the directions of a task once for all of its images. What is read of fronts lies where it lay, found by address.
Products are exact fp32 whatever `allow_tf32` says: a whitener enlarges differences up to three hundredfold.

Predicted for an H200 (4.2 TB/s, 30 TFLOP/s of fp32; not measured), 28 x 28 patches, 32 directions: 16 images of one
task 0.06 ms with 256 channels and 0.3 ms with 768, of 16 tasks 0.3 and 0.9 ms, 256 images of 15 tasks 1.1 and 5.5 ms.
Arithmetic decides: directions of a task are 26 and 77 MB, 6 and 18 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .addresses import aligned, array
from .tiles import fitting

# Columns of the table of fronts.
_WHITENER = tl.constexpr(0)
_DIRECTIONS = tl.constexpr(1)
_GAIN = tl.constexpr(2)
_SCALE = tl.constexpr(3)
_FIELDS = tl.constexpr(4)

_IMAGES = 16  # a program: the least that a product takes, and the same for every batch, so an image's bits are too


class FrontAddresses(NamedTuple):
    """Where the kernels find the fronts of T tasks; `read` keeps the memory alive."""

    table: Tensor  # (T, 4) int64
    read: list[Tensor]
    channels: int
    directions: int
    aligned: bool  # rows start at 16 bytes


def addresses(
    whiteners: Sequence[Tensor], directions: Sequence[Tensor], gains: Sequence[Tensor], scales: Sequence[Tensor]
) -> FrontAddresses:
    """Of whiteners (D, D), directions (H, W, K, D), gains (H, W, K) and scales (H, W), a task each; all contiguous."""
    rows = list(zip(whiteners, directions, gains, scales, strict=True))
    found = [[t.data_ptr() for t in row] for row in rows]
    *_, k, d = directions[0].shape
    starts = [address for whitener, own, *_ in found for address in (whitener, own)]
    table = torch.tensor(found, dtype=torch.int64, device=whiteners[0].device)
    return FrontAddresses(table, [t for row in rows for t in row], d, k, aligned([*starts, 4 * d]))


@triton.jit
def _whitened(
    x_ptr, bias_ptr, tasks_ptr, table_ptr, y_ptr, positions, channels, ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y = scale * whitener (x + bias), a tile of the positions of an image and of channels."""
    across, down = tl.cdiv(channels, BLOCK_N), tl.cdiv(positions, BLOCK_M)
    tile = tl.program_id(0) % across
    image = (tl.program_id(0) // (across * down)).to(tl.int64)
    m = tl.program_id(0) // across % down * BLOCK_M + tl.arange(0, BLOCK_M)
    n, k = tile * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    m_ok, n_ok = m < positions, n < channels
    task = tl.load(tasks_ptr + image).to(tl.int64)
    entry = table_ptr + task * _FIELDS
    whitener = array(entry + _WHITENER, ALIGNED)
    rows = m.to(tl.int64)[:, None] * channels
    x = x_ptr + image * positions * channels + rows
    bias = bias_ptr + task * positions * channels + rows
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, tl.minimum((tile + 1) * BLOCK_N, channels), BLOCK_K):  # right of the diagonal are zeros
        column = first + k
        column_ok = column < channels
        ok = m_ok[:, None] & column_ok[None, :]
        centred = tl.load(x + column[None, :], mask=ok, other=0.0)
        centred += tl.load(bias + column[None, :], mask=ok, other=0.0)
        weights = tl.load(
            whitener + (n[:, None] * channels + column[None, :]), mask=n_ok[:, None] & column_ok[None, :], other=0.0
        )
        acc = tl.dot(centred, tl.trans(weights), acc, input_precision="ieee")
    scale = tl.load(array(entry + _SCALE, False) + m, mask=m_ok, other=0.0)
    y = y_ptr + image * positions * channels + rows + n[None, :]
    tl.store(y, acc * scale[:, None], mask=m_ok[:, None] & n_ok[None, :])


@triton.jit(do_not_specialize=["images"])
def _along_directions(
    y_ptr, out_ptr, tasks_ptr, order_ptr, table_ptr, images, positions, channels, directions, ALIGNED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = y + U^T (gain - 1) U y at one position of some images; out may be y where BLOCK_K covers the directions."""
    blocks = tl.cdiv(images, BLOCK_B)  # those of a position lie beside each other: they may share directions
    position = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK_B + tl.arange(0, BLOCK_B)
    there = place < images
    image = tl.load(order_ptr + place, mask=there, other=0)
    task = tl.load(tasks_ptr + image, mask=there, other=0)
    rows = ((image.to(tl.int64) * positions + position) * channels)[:, None]
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    first, last = tl.min(tl.where(there, task, 2147483647), 0), tl.max(tl.where(there, task, -1), 0)
    for each in range(first, last + 1):
        own = there & (task == each)
        if tl.sum(own.to(tl.int32), 0) > 0:
            entry = table_ptr + each * _FIELDS
            all_u = array(entry + _DIRECTIONS, ALIGNED) + position * directions * channels
            all_gains = array(entry + _GAIN, False) + position * directions
            for start in range(0, directions, BLOCK_K):
                at = start + k
                at_ok = at < directions
                u = all_u + at[:, None] * channels
                along = tl.zeros((BLOCK_B, BLOCK_K), tl.float32)
                for column in range(0, channels, BLOCK_D):
                    c = column + d
                    c_ok = c < channels
                    y = tl.load(y_ptr + rows + c[None, :], mask=own[:, None] & c_ok[None, :], other=0.0)
                    some = tl.load(u + c[None, :], mask=at_ok[:, None] & c_ok[None, :], other=0.0)
                    along = tl.dot(y, tl.trans(some), along, input_precision="ieee")
                along *= (tl.load(all_gains + at, mask=at_ok, other=1.0) - 1.0)[None, :]
                tl.debug_barrier()  # what is written next, other threads have read
                for column in range(0, channels, BLOCK_D):
                    c = column + d
                    c_ok = c < channels
                    ok = own[:, None] & c_ok[None, :]
                    some = tl.load(u + c[None, :], mask=at_ok[:, None] & c_ok[None, :], other=0.0)
                    if start == 0:
                        before = tl.load(y_ptr + rows + c[None, :], mask=ok, other=0.0)
                    else:
                        before = tl.load(out_ptr + rows + c[None, :], mask=ok, other=0.0)
                    w = tl.dot(along, some, before, input_precision="ieee")
                    tl.store(out_ptr + rows + c[None, :], w, mask=ok)
                tl.debug_barrier()  # and what was written is read again where there are more directions


def gaussian_front(x: Tensor, bias: Tensor, fronts: FrontAddresses, tasks: Tensor, order: Tensor) -> Tensor:
    """w (B, H, W, D), image b through front tasks[b].

    Args:
        x: (B, H, W, D), contiguous, fp32, at least one image.
        bias: (T, H, W, D), contiguous: what is added to x before it is whitened, minus the mean.
        tasks: (B,) int32.
        order: (B,) integers, the images ordered by task.
    """
    images, positions, d = len(x), x.shape[1] * x.shape[2], fronts.channels
    block_n, block_m = fitting(d, 64), fitting(positions, 64)
    y = x.new_empty(x.shape)
    _whitened[(images * triton.cdiv(positions, block_m) * triton.cdiv(d, block_n),)](
        x, bias, tasks, fronts.table, y, positions, d, ALIGNED=fronts.aligned,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=fitting(d, 32), num_warps=4, num_stages=3,
    )  # fmt: skip
    if fronts.directions == 0:
        return y
    block_k = fitting(fronts.directions, 32)
    out = y if fronts.directions <= block_k else x.new_empty(x.shape)
    _along_directions[(positions * triton.cdiv(images, _IMAGES),)](
        y, out, tasks, order, fronts.table, images, positions, d, fronts.directions, ALIGNED=fronts.aligned,
        BLOCK_B=_IMAGES, BLOCK_D=fitting(d, 64), BLOCK_K=block_k, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out
