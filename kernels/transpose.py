"""Between the tokens' own layout (N, D) and the channel-major state (D, N), a permutation and a scale on the way."""

import triton
import triton.language as tl
from torch import Tensor

from .elementary import room
from .tiles import fitting


@triton.jit
def _enter(
    x_ptr, x_stride, state_ptr, state_stride, rows_ptr, channels, tokens,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    d_ok, n_ok = d < channels, n < tokens
    x = tl.load(x_ptr + n.to(tl.int64)[:, None] * x_stride + d[None, :], mask=n_ok[:, None] & d_ok[None, :], other=0.0)
    rows = tl.load(rows_ptr + d, mask=d_ok, other=0).to(tl.int64)
    state = state_ptr + rows[:, None] * state_stride + n[None, :]
    tl.store(state, tl.trans(x), mask=d_ok[:, None] & (n < room(tokens))[None, :])


@triton.jit
def _leave(
    state_ptr, state_stride, rows_ptr, pending_ptr, x_ptr, x_stride, channels, tokens,
    PENDING: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    d_ok, n_ok = d < channels, n < tokens
    rows = tl.load(rows_ptr + d, mask=d_ok, other=0)
    x = tl.load(
        state_ptr + rows.to(tl.int64)[:, None] * state_stride + n[None, :],
        mask=d_ok[:, None] & (n < room(tokens))[None, :],
        other=0.0,
    )
    if PENDING:
        x = x * tl.load(pending_ptr + 2 * rows, mask=d_ok, other=0.0)[:, None]
        x += tl.load(pending_ptr + 2 * rows + 1, mask=d_ok, other=0.0)[:, None]
    tl.store(x_ptr + n.to(tl.int64)[:, None] * x_stride + d[None, :], tl.trans(x), mask=n_ok[:, None] & d_ok[None, :])


def enter(x: Tensor, rows: Tensor, state: Tensor) -> Tensor:
    """Row rows[d] of state (D, N) = column d of x (N, D)."""
    tokens, channels = x.shape
    programs, blocks = _tiling(channels, tokens)
    _enter[programs](x, x.stride(0), state, state.stride(0), rows, channels, tokens, **blocks)
    return state


def leave(state: Tensor, rows: Tensor, pending: Tensor | None, x: Tensor) -> Tensor:
    """Column d of x (N, D) = row rows[d] of state (D, N), with the row's pending scale and offset (D, 2)."""
    tokens, channels = x.shape
    programs, blocks = _tiling(channels, tokens)
    _leave[programs](
        state, state.stride(0), rows, state if pending is None else pending, x, x.stride(0), channels, tokens,
        PENDING=pending is not None, **blocks,
    )  # fmt: skip
    return x


def _tiling(channels: int, tokens: int) -> tuple[tuple[int, int], dict[str, int]]:
    blocks = {"BLOCK_D": fitting(channels, 64), "BLOCK_N": fitting(tokens, 64)}
    return (triton.cdiv(channels, blocks["BLOCK_D"]), triton.cdiv(tokens, blocks["BLOCK_N"])), blocks
