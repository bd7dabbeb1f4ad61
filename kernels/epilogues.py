"""What is done to a product before it is stored, whichever way it was formed."""

# Triton reads annotations of kernels itself, so they are not postponed here.
import triton
import triton.language as tl

from .elementary import tanh


@triton.jit
def biased_relu(acc, bias_ptr, rows, row_ok):
    """max(acc + bias, 0) of acc (BM, BN)."""
    acc += tl.load(bias_ptr + rows, mask=row_ok, other=0.0)[:, None]
    # NaN must come through, as it does in torch.relu.
    return tl.where(acc < 0.0, 0.0, acc)


@triton.jit
def where_positive(acc, hidden, columns, tokens):
    """The gradient (BM, BN) where the ReLU let through; 0 in the padding, for sums over tokens follow."""
    return tl.where((hidden > 0.0) & (columns < tokens)[None, :], acc, 0.0)


@triton.jit
def halves(acc):
    """The left and the right half of acc (BM, BN), which moves nothing: each thread holds columns of both."""
    apart = tl.reshape(acc, (acc.shape[0], 2, acc.shape[1] // 2))
    return tl.split(tl.permute(apart, (0, 2, 1)))


@triton.jit
def couple_tile(
    s, t, tile, first, end, bias_ptr, state_ptr, state_stride, rows_ptr, pending_ptr, affine_ptr, s_ptr, s_stride,
    x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, clamp, s_factor, t_factor,
    KEEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The coupling of products s and t (BM, BN), tile number `tile` of the channels, of tokens from `first` to `end`.

    One quarter of the columns after the other: of 64 x 128 with 4 warps, whole tiles spill 216 bytes on sm_90 and
    halves 44, quarters take 214 registers.
    """
    BLOCK_M: tl.constexpr = s.shape[0]
    QUARTER: tl.constexpr = s.shape[1] // 4
    own = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    s0, s1 = halves(s)
    t0, t1 = halves(t)
    s_parts, t_parts = halves(s0) + halves(s1), halves(t0) + halves(t1)
    for part in tl.static_range(4):
        columns = first + part * QUARTER + tl.arange(0, QUARTER)
        row_ok, column_ok = own < channels, columns < end
        if EVEN:
            row_ok, column_ok = tl.full([BLOCK_M], True, tl.int1), tl.full([QUARTER], True, tl.int1)
        log_scales = couple(
            s_parts[part], t_parts[part], own, columns, row_ok, column_ok, bias_ptr, state_ptr, state_stride,
            rows_ptr, pending_ptr, affine_ptr, s_ptr, s_stride, x2_ptr, x2_stride, channels, clamp, s_factor,
            t_factor, KEEP,
        )  # fmt: skip
        tl.store(logdet_ptr + tile * logdet_stride + columns, log_scales, mask=column_ok)


@triton.jit
def couple(
    s, t, own, columns, row_ok, column_ok, bias_ptr, state_ptr, state_stride, rows_ptr, pending_ptr, affine_ptr,
    s_ptr, s_stride, x2_ptr, x2_stride, channels, clamp, s_factor, t_factor, KEEP: tl.constexpr,
):  # fmt: skip
    """The coupling of products s and t (BM, BN) of the channels `own`; returns its log-scales' sums (BN,)."""
    ok = row_ok[:, None] & column_ok[None, :]
    s += tl.load(bias_ptr + own, mask=row_ok, other=0.0)[:, None]
    if KEEP:
        kept = s_ptr + own.to(tl.int64)[:, None] * s_stride + columns[None, :]
        tl.store(kept, s.to(s_ptr.dtype.element_ty), mask=ok)
    log_scale = clamp * tanh(s_factor * s)
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
    return tl.sum(tl.where(row_ok[:, None], log_scale, 0.0), 0)
