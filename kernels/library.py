"""Products by the vendor's library, and one pass over each result. In tf32 nothing else here comes near its rate.

Of 16-bit operands a coupling's products come in fp32, as the other ways accumulate them: rounded to bf16 each s would
be off by 0.4%, and the sum of log-scales with it. It costs 38 MB more traffic at 384 channels and 12,544 tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import room
from .epilogues import biased_relu, couple, where_positive
from .operands import Coupling, Hidden, HiddenGradient
from .tiles import LOGDET_ROWS, fitting

PASS_ROWS = 32  # of s and t at a time, which with 128 tokens and 4 warps measured best


@triton.jit
def _relu(y_ptr, y_stride, bias_ptr, outputs, tokens, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = rows < outputs
    ok = row_ok[:, None] & (columns < room(tokens))[None, :]
    y = y_ptr + rows.to(tl.int64)[:, None] * y_stride + columns[None, :]
    acc = biased_relu(tl.load(y, mask=ok, other=0.0).to(tl.float32), bias_ptr, rows, row_ok)
    tl.store(y, acc.to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _relu_gradient(
    dh_ptr, dh_stride, h_ptr, h_stride, sums_ptr, sums_stride, units, tokens,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = rows < units
    ok = row_ok[:, None] & (columns < room(tokens))[None, :]
    dh = dh_ptr + rows.to(tl.int64)[:, None] * dh_stride + columns[None, :]
    h = tl.load(h_ptr + rows.to(tl.int64)[:, None] * h_stride + columns[None, :], mask=ok, other=0.0)
    acc = where_positive(tl.load(dh, mask=ok, other=0.0).to(tl.float32), h, columns, tokens)
    tl.store(dh, acc.to(dh_ptr.dtype.element_ty), mask=ok)
    tl.store(sums_ptr + tl.program_id(1) * sums_stride + rows, tl.sum(acc, 1), mask=row_ok)


@triton.jit
def _coupling(
    st_ptr, st_stride, bias_ptr, state_ptr, state_stride, rows_ptr, pending_ptr, affine_ptr, s_ptr, s_stride,
    x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, tokens, clamp, s_factor, t_factor,
    KEEP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    column_ok = columns < room(tokens)
    log_scales = tl.zeros((BLOCK_N,), tl.float32)
    for part in tl.static_range(PARTS):
        own = (tl.program_id(0) * PARTS + part) * BLOCK_M + tl.arange(0, BLOCK_M)
        row_ok = own < channels
        ok = row_ok[:, None] & column_ok[None, :]
        s = tl.load(st_ptr + own.to(tl.int64)[:, None] * st_stride + columns[None, :], mask=ok, other=0.0)
        second = (channels + own).to(tl.int64)
        t = tl.load(st_ptr + second[:, None] * st_stride + columns[None, :], mask=ok, other=0.0)
        log_scales += couple(
            s, t, own, columns, row_ok, column_ok, bias_ptr, state_ptr, state_stride, rows_ptr, pending_ptr,
            affine_ptr, s_ptr, s_stride, x2_ptr, x2_stride, channels, clamp, s_factor, t_factor, KEEP,
        )  # fmt: skip
    tl.store(logdet_ptr + tl.program_id(0) * logdet_stride + columns, log_scales, mask=column_ok)


def takes(op: Hidden | HiddenGradient | Coupling, tile: None) -> bool:
    """Any operands but those of several tasks."""
    return op.tasks is None


def relu_product(op: Hidden, tile: None) -> None:
    """`products.relu_product`."""
    for weight, x, out in op.parts():
        torch.mm(weight, x, out=out)
    rows, tokens = op.out.shape
    block_n = fitting(tokens, 512)
    _relu[triton.cdiv(rows, 4), triton.cdiv(tokens, block_n)](
        op.out, op.out.stride(0), op.bias, rows, tokens, BLOCK_M=4, BLOCK_N=block_n
    )


def relu_gradient_product(op: HiddenGradient, tile: None) -> int:
    """`products.relu_gradient_product`, both networks' products as one batch."""
    weight, dy, out = (t.unflatten(0, (op.networks, -1)) for t in (op.weight, op.dy, op.out))
    torch.bmm(weight.mT, dy, out=out)
    rows, tokens = op.hidden.shape
    block_n = fitting(tokens, 1024)
    token_tiles = triton.cdiv(tokens, block_n)
    _relu_gradient[rows, token_tiles](
        op.out, op.out.stride(0), op.hidden, op.hidden.stride(0), op.sums, op.sums.stride(0), rows, tokens,
        BLOCK_M=1, BLOCK_N=block_n,
    )  # fmt: skip
    return token_tiles


def coupling_product(op: Coupling, tile: None) -> None:
    """`coupling.coupling_product`."""
    channels, tokens = op.rows.shape[0], op.state.shape[1]
    products = _products(op)
    height, block_n = fitting(channels, LOGDET_ROWS), fitting(tokens, 128)
    part = min(PASS_ROWS, height)
    _coupling[triton.cdiv(channels, height), triton.cdiv(tokens, block_n)](
        products, products.stride(0), *op.epilogue(), KEEP=op.kept is not None, BLOCK_M=part, BLOCK_N=block_n,
        PARTS=height // part, num_warps=4,
    )  # fmt: skip


def _products(op: Coupling) -> Tensor:
    """s and t without biases, (2 C, N) fp32."""
    channels, tokens = op.rows.shape[0], op.state.shape[1]
    both = op.state.new_empty(2 * channels, op.state.stride(0))[:, :tokens]
    for out, weight, hidden in zip(both.chunk(2), op.weight.chunk(2), op.hidden, strict=True):
        if weight.dtype == torch.float32:
            torch.mm(weight, hidden, out=out)
        elif weight.is_cpu:  # where torch has no products of 16 bits into fp32
            torch.mm(weight.float(), hidden.float(), out=out)
        else:
            torch.mm(weight, hidden, out_dtype=torch.float32, out=out)
    return both
