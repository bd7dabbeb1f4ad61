"""Affine couplings on channel-major tokens: the networks' last products with the coupling as their epilogue.

log-scale e = clamp * tanh(s_factor * s), y2 = x2 * exp(e) + t_factor * t, stored as y2 * after + offset.
The state keeps a pending scale and offset per row instead of multiplying rows that no network writes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import room, tanh
from .products import accumulate, fitting, tiles, token_tile


@triton.jit
def _coupling_product(
    w_ptr, w_stride, bias_ptr, h_ptr, h_stride, second_ptr, inner, state_ptr, state_stride, rows_ptr,
    pending_ptr, affine_ptr, s_ptr, s_stride, x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, tokens,
    clamp, s_factor, t_factor, tasks_ptr, pitch, w_task_stride,
    KEEP: tl.constexpr, MIXED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(channels, BLOCK_M)
    tile = tl.program_id(0) % tiles
    own = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns, column_ok, task = token_tile(tl.program_id(0) // tiles, tokens, tasks_ptr, pitch, MIXED, BLOCK_N)
    row_ok = own < channels
    if MIXED:
        w_ptr += task * w_task_stride
        bias_ptr += task * (2 * channels)
    ok = row_ok[:, None] & column_ok[None, :]
    s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    s = accumulate(
        s, w_ptr, own, w_stride, 1, h_ptr, h_stride, columns, inner, row_ok, column_ok, BLOCK_K, PRECISION
    )
    s += tl.load(bias_ptr + own, mask=row_ok, other=0.0)[:, None]
    if KEEP:
        tl.store(s_ptr + own.to(tl.int64)[:, None] * s_stride + columns[None, :], s.to(s_ptr.dtype.element_ty), mask=ok)
    log_scale = clamp * tanh(s_factor * s)
    tl.store(
        logdet_ptr + tile * logdet_stride + columns, tl.sum(tl.where(ok, log_scale, 0.0), 0), mask=column_ok
    )
    t = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    t = accumulate(
        t, w_ptr, channels + own, w_stride, 1, second_ptr, h_stride, columns, inner, row_ok, column_ok, BLOCK_K,
        PRECISION,
    )  # fmt: skip
    t += tl.load(bias_ptr + channels + own, mask=row_ok, other=0.0)[:, None]
    at = tl.load(rows_ptr + own, mask=row_ok, other=0)
    state = state_ptr + at.to(tl.int64)[:, None] * state_stride + columns[None, :]
    x2 = tl.load(state, mask=ok, other=0.0)
    x2 = x2 * tl.load(pending_ptr + 2 * at, mask=row_ok, other=0.0)[:, None]
    x2 += tl.load(pending_ptr + 2 * at + 1, mask=row_ok, other=0.0)[:, None]
    if KEEP:
        kept = x2_ptr + own.to(tl.int64)[:, None] * x2_stride + columns[None, :]
        tl.store(kept, x2.to(x2_ptr.dtype.element_ty), mask=ok)
    y2 = x2 * tl.exp(log_scale) + t_factor * t
    y2 = y2 * tl.load(affine_ptr + 2 * own, mask=row_ok, other=0.0)[:, None]
    y2 += tl.load(affine_ptr + 2 * own + 1, mask=row_ok, other=0.0)[:, None]
    tl.store(state, y2, mask=ok)


@triton.jit
def _coupling_backward(
    s_ptr, s_stride, x2_ptr, x2_stride, grad_ptr, grad_stride, rows_ptr, affine_ptr, dlogdet_ptr, dout_ptr, dout_stride,
    sums_ptr, sums_stride, channels, tokens, clamp, s_factor, t_factor,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    own = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok, column_ok = own < channels, columns < tokens
    ok = row_ok[:, None] & (columns < room(tokens))[None, :]
    s = tl.load(s_ptr + own.to(tl.int64)[:, None] * s_stride + columns[None, :], mask=ok, other=0.0).to(tl.float32)
    x2 = tl.load(x2_ptr + own.to(tl.int64)[:, None] * x2_stride + columns[None, :], mask=ok, other=0.0).to(tl.float32)
    at = tl.load(rows_ptr + own, mask=row_ok, other=0)
    grad = grad_ptr + at.to(tl.int64)[:, None] * grad_stride + columns[None, :]
    dy = tl.load(grad, mask=ok, other=0.0) * tl.load(affine_ptr + 2 * own, mask=row_ok, other=0.0)[:, None]
    tangent = tanh(s_factor * s)
    scale = tl.exp(clamp * tangent)
    dlogdet = tl.load(dlogdet_ptr + columns, mask=column_ok, other=0.0)
    ds = (dy * x2 * scale + dlogdet[None, :]) * (clamp * s_factor) * (1.0 - tangent * tangent)
    dt = t_factor * dy
    tl.store(grad, dy * scale, mask=ok)
    out = dout_ptr + own.to(tl.int64)[:, None] * dout_stride + columns[None, :]
    tl.store(out, ds.to(dout_ptr.dtype.element_ty), mask=ok)
    out = dout_ptr + (channels + own).to(tl.int64)[:, None] * dout_stride + columns[None, :]
    tl.store(out, dt.to(dout_ptr.dtype.element_ty), mask=ok)
    ok = row_ok[:, None] & column_ok[None, :]
    sums = sums_ptr + tl.program_id(1) * sums_stride + own
    tl.store(sums, tl.sum(tl.where(ok, ds, 0.0), 1), mask=row_ok)
    tl.store(sums + channels, tl.sum(tl.where(ok, dt, 0.0), 1), mask=row_ok)


def logdet_tiles(channels: int, tokens: int, dtype: torch.dtype) -> int:
    """How many partial sums of the log-determinant `coupling_product` writes."""
    return triton.cdiv(channels, _coupling_tiles(channels, tokens, 16, dtype)["BLOCK_M"])


def coupling_product(
    weight: Tensor, bias: Tensor, hidden: tuple[Tensor, Tensor], state: Tensor, rows: Tensor, pending: Tensor,
    affine: Tensor, logdet: Tensor, clamping: tuple[float, float, float], kept: tuple[Tensor, Tensor] | None,
    tasks: Tensor | None = None,
) -> None:  # fmt: skip
    """[s; t] = W h + b, and with them the coupling of the rows `rows` of `state`, in place.

    Args:
        weight: (2 C, K), the scale network's rows first; bias (2 C,) fp32.
        hidden: what each network reads, (K, N) with one row stride.
        state: (D, N) fp32; rows (C,) int32.
        pending: (D, 2) fp32, scale and offset that each row of the state still lacks.
        affine: (C, 2) fp32, what the result is multiplied by and what is added.
        logdet: (`logdet_tiles`, N) fp32, gets partial sums of the log-scales.
        kept: where s (C, N) and x2 (C, N) go for the backward pass, fp32.
        tasks: (images,) int32, which of weights (T, 2 C, K) and biases (T, 2 C) each image takes.
    """
    channels, tokens = rows.shape[0], state.shape[1]
    pitch, images = (tokens, 1) if tasks is None else (tokens // len(tasks), len(tasks))
    config = _coupling_tiles(channels, pitch, weight.shape[-1], weight.dtype)
    s, x2 = kept or (state, state)
    grid = (triton.cdiv(channels, config["BLOCK_M"]) * images * triton.cdiv(pitch, config["BLOCK_N"]),)
    _coupling_product[grid](
        weight, weight.stride(-2), bias, hidden[0], hidden[0].stride(0), hidden[1], weight.shape[-1],
        state, state.stride(0), rows, pending, affine, s, s.stride(0), x2, x2.stride(0), logdet, logdet.stride(0),
        channels, tokens, *clamping, weight if tasks is None else tasks, pitch, weight.stride(0),
        KEEP=kept is not None, MIXED=tasks is not None, **config,
    )  # fmt: skip


def coupling_backward(
    s: Tensor, x2: Tensor, grad: Tensor, rows: Tensor, affine: Tensor, dlogdet: Tensor, out: Tensor,
    clamping: tuple[float, float, float], sums: Tensor,
) -> int:  # fmt: skip
    """Rows `rows` of `grad` (D, N) become the gradient of x2; out (2 C, N), which may be s and x2, gets that of [s; t].

    Args:
        sums: (`sum_tiles`, 2 C) fp32, gets partial sums of `out` over tokens.

    Returns:
        How many rows of partial sums were written.
    """
    channels, tokens = s.shape
    block_m, block_n = min(4, triton.next_power_of_2(channels)), fitting(tokens, 512)
    token_tiles = triton.cdiv(tokens, block_n)
    _coupling_backward[triton.cdiv(channels, block_m), token_tiles](
        s, s.stride(0), x2, x2.stride(0), grad, grad.stride(0), rows, affine, dlogdet, out, out.stride(0),
        sums, sums.stride(0), channels, tokens, *clamping, BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    return token_tiles


def _coupling_tiles(channels: int, tokens: int, inner: int, dtype: torch.dtype) -> dict:
    # 64 x 128 with 8 warps takes 187 registers on sm_90, 138 where nothing is kept. 128 rows take all 255 and spill
    # 84 bytes (12), as do 256 tokens (384) and 4 warps (388); 256 tokens with 4 warps serialize wgmma besides.
    return tiles(channels, tokens, inner, dtype, largest=64)
