"""-log p of patches and the gradient of their loss from the flow's last state (D, N): z itself is never written.

The squares of a token add up in any order of channels, so z = scale * state + offset needs no permutation: scale and
offset are what is pending of each row. A gradient by z is one by the state's rows as the backward pass takes them.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from . import channel_major
from .elementary import room
from .tiles import fitting

# Rows whose squares one program adds up.
STRIPE = 64


@triton.jit
def _load_latent(state_ptr, state_stride, pending_ptr, d, n, d_ok, n_ok):
    """z (BLOCK_D, BLOCK_N) of rows d; zero where not ok."""
    at = d.to(tl.int64)[:, None] * state_stride + n[None, :]
    ok = d_ok[:, None] & n_ok[None, :]
    scale = tl.load(pending_ptr + 2 * d, mask=d_ok, other=0.0)
    offset = tl.load(pending_ptr + 2 * d + 1, mask=d_ok, other=0.0)
    return tl.load(state_ptr + at, mask=ok, other=0.0) * scale[:, None] + offset[:, None]


@triton.jit
def _square_sums(
    state_ptr, state_stride, pending_ptr, sums_ptr, sums_stride, channels, tokens,
    STRIPE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_ok = n < room(tokens)
    total = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
    for start in range(0, STRIPE, BLOCK_D):
        d = tl.program_id(1) * STRIPE + start + tl.arange(0, BLOCK_D)
        z = _load_latent(state_ptr, state_stride, pending_ptr, d, n, d < channels, n_ok)
        total += z * z
    tl.store(sums_ptr + tl.program_id(1).to(tl.int64) * sums_stride + n, tl.sum(total, 0), mask=n_ok)


@triton.jit
def _nll(
    sums_ptr, sums_stride, stripes, tiles_ptr, tiles_stride, tiles, log_scales_ptr, nll_ptr, logdet_ptr, tokens,
    constant, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    fits = n < room(tokens)
    squares = _column_sums(sums_ptr, sums_stride, stripes, n, fits, BLOCK_R, BLOCK_N)
    logdet = _column_sums(tiles_ptr, tiles_stride, tiles, n, fits, BLOCK_R, BLOCK_N) + tl.load(log_scales_ptr)
    tl.store(nll_ptr + n, 0.5 * squares + constant - logdet, mask=n < tokens)
    tl.store(logdet_ptr + n, logdet, mask=n < tokens)


@triton.jit
def _column_sums(ptr, stride, rows, n, ok, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    total = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for start in range(0, rows, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        at = row.to(tl.int64)[:, None] * stride + n[None, :]
        total += tl.load(ptr + at, mask=(row < rows)[:, None] & ok[None, :], other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _state_gradient(
    dloss_ptr, weights_ptr, state_ptr, state_stride, pending_ptr, logdet_ptr, grad_ptr, grad_stride, dlogdet_ptr,
    channels, tokens, penalty, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    n_ok, d_ok, fits = n < tokens, d < channels, n < room(tokens)
    dloss, weight = tl.load(dloss_ptr), tl.load(weights_ptr + n, mask=n_ok, other=0.0)
    if tl.program_id(1) == 0:
        logdet = tl.load(logdet_ptr + n, mask=n_ok, other=0.0)
        tl.store(dlogdet_ptr + n, dloss * (penalty * logdet - weight), mask=n_ok)
    z = _load_latent(state_ptr, state_stride, pending_ptr, d, n, d_ok, fits)
    grad = grad_ptr + d.to(tl.int64)[:, None] * grad_stride + n[None, :]
    tl.store(grad, (dloss * weight)[None, :] * z, mask=d_ok[:, None] & fits[None, :])


def state_nll(state: Tensor, pending: Tensor, tiles: Tensor, log_scales: Tensor, nll: Tensor, logdet: Tensor) -> None:
    """-log p of each token into nll (N,), its log-determinant into logdet (N,).

    Args:
        state: (D, N) fp32, as the last block leaves it; pending (D, 2): each row's scale and offset.
        tiles: (T, N) fp32, parts of the log-determinant, in rows that start aligned.
        log_scales: the part that no token changes, () fp32.
    """
    channels, tokens = state.shape
    sums = channel_major(triton.cdiv(channels, STRIPE), tokens, state)
    block = fitting(tokens, 256)
    _square_sums[(triton.cdiv(tokens, block), len(sums))](
        state, state.stride(0), pending, sums, sums.stride(0), channels, tokens, STRIPE=STRIPE, BLOCK_D=8, BLOCK_N=block
    )
    block = fitting(tokens, 64)
    _nll[(triton.cdiv(tokens, block),)](
        sums, sums.stride(0), len(sums), tiles, tiles.stride(0), len(tiles), log_scales, nll, logdet, tokens,
        0.5 * channels * math.log(2 * math.pi), BLOCK_R=16, BLOCK_N=block,
    )  # fmt: skip


def state_gradient(
    dloss: Tensor, weights: Tensor, state: Tensor, pending: Tensor, logdet: Tensor, lambda_logdet: float,
    grad: Tensor, dlogdet: Tensor,
) -> None:  # fmt: skip
    """Gradients of z, in the state's rows, into grad (D, N), which may be `state`, and of logdet into dlogdet (N,).

    Args:
        dloss: gradient of the loss, (); weights (N,) as `density.loss_of_patches` gives them.
        state, pending, logdet: as `state_nll` read and wrote them.
        lambda_logdet: weight of mean(logdet^2) in the loss.
    """
    channels, tokens = state.shape
    block = fitting(tokens, 256)
    _state_gradient[(triton.cdiv(tokens, block), triton.cdiv(channels, 16))](
        dloss, weights, state, state.stride(0), pending, logdet, grad, grad.stride(0), dlogdet, channels, tokens,
        2 * lambda_logdet / tokens, BLOCK_D=16, BLOCK_N=block,
    )  # fmt: skip
