"""Affine couplings on channel-major tokens: the networks' last products with the coupling as their epilogue.

log-scale e = clamp * tanh(s_factor * s), y2 = x2 * exp(e) + t_factor * t, stored as y2 * after + offset.
The state keeps a pending scale and offset per row instead of multiplying rows that no network writes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import descriptors, library, pointers
from .elementary import room, tanh
from .operands import Coupling
from .tiles import LOGDET_ROWS, fitting
from .ways import Implementation, perform

_WAYS = {
    "pointers": Implementation(pointers.coupling_product, pointers.takes_coupling_product),
    "descriptors": Implementation(descriptors.coupling_product, descriptors.takes_coupling_product),
    "library": Implementation(library.coupling_product, library.takes),
}


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
    return triton.cdiv(channels, fitting(channels, LOGDET_ROWS))


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
        kept: where s (C, N) and x2 (C, N) go for the backward pass, fp32 or bf16.
        tasks: (images,) int32, which of weights (T, 2 C, K) and biases (T, 2 C) each image takes.
    """
    op = Coupling(weight, bias, hidden, state, rows, pending, affine, logdet, clamping, kept, tasks)
    perform("coupling_product", _WAYS, op, weight)


def coupling_backward(
    s: Tensor, x2: Tensor, grad: Tensor, rows: Tensor, affine: Tensor, dlogdet: Tensor, out: Tensor,
    clamping: tuple[float, float, float], sums: Tensor,
) -> int:  # fmt: skip
    """Rows `rows` of `grad` (D, N) become the gradient of x2; out (2 C, N), which may be s and x2, gets that of [s; t].

    Args:
        s, x2: (C, N) each, as `coupling_product` kept them.
        sums: (`sum_tiles`, 2 C) fp32, columns contiguous: gets partial sums of `out` over tokens, the gradient of the
            last layers' biases.

    Returns:
        How many rows of `sums` were written.
    """
    channels, tokens = s.shape
    block_m, block_n = min(4, triton.next_power_of_2(channels)), fitting(tokens, 512)
    token_tiles = triton.cdiv(tokens, block_n)
    _coupling_backward[triton.cdiv(channels, block_m), token_tiles](
        s, s.stride(0), x2, x2.stride(0), grad, grad.stride(0), rows, affine, dlogdet, out, out.stride(0),
        sums, sums.stride(0), channels, tokens, *clamping, BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    return token_tiles
