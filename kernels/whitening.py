"""y = gamma * LN(x) + beta on row-major tokens, a whole token in a block."""

import triton
import triton.language as tl
from torch import Tensor

from .partials import add_partials
from .tiles import fitting

# Programs of the backward pass, each with partial sums of its own: fixed, so that no GPU adds in another order.
PROGRAMS = 256


@triton.jit
def _whitening(
    x_ptr, positions_ptr, gamma_ptr, beta_ptr, tasks_ptr, y_ptr, mean_ptr, rstd_ptr, tokens, channels, period, eps,
    POSITIONS: tl.constexpr, MIXED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    n_ok, d_ok = n < tokens, d < channels
    ok = n_ok[:, None] & d_ok[None, :]
    x = tl.load(x_ptr + n.to(tl.int64)[:, None] * channels + d[None, :], mask=ok, other=0.0)
    if POSITIONS:
        at = (n % period).to(tl.int64)[:, None] * channels + d[None, :]
        x += tl.load(positions_ptr + at, mask=ok, other=0.0)
    mean = tl.sum(x, 1) / channels
    centred = tl.where(ok, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / channels + eps)
    if MIXED:
        own = tl.load(tasks_ptr + n // period, mask=n_ok, other=0)[:, None] * channels + d[None, :]
        gamma, beta = tl.load(gamma_ptr + own, mask=ok, other=0.0), tl.load(beta_ptr + own, mask=ok, other=0.0)
    else:
        gamma = tl.load(gamma_ptr + d, mask=d_ok, other=0.0)[None, :]
        beta = tl.load(beta_ptr + d, mask=d_ok, other=0.0)[None, :]
    y = gamma * (centred * rstd[:, None]) + beta
    tl.store(y_ptr + n.to(tl.int64)[:, None] * channels + d[None, :], y, mask=ok)
    tl.store(mean_ptr + n, mean, mask=n_ok)
    tl.store(rstd_ptr + n, rstd, mask=n_ok)


@triton.jit
def _whitening_backward(
    dy_ptr, x_ptr, gamma_ptr, mean_ptr, rstd_ptr, dx_ptr, sums_ptr, tokens, channels,
    WITH_DX: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, BLOCK_D)
    d_ok = d < channels
    gamma = tl.load(gamma_ptr + d, mask=d_ok, other=0.0)[None, :]
    dgamma = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dbeta = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(tl.program_id(0) * BLOCK_N, tokens, tl.num_programs(0) * BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_ok = n < tokens
        ok = n_ok[:, None] & d_ok[None, :]
        at = n.to(tl.int64)[:, None] * channels + d[None, :]
        x = tl.load(x_ptr + at, mask=ok, other=0.0)
        mean = tl.load(mean_ptr + n, mask=n_ok, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + n, mask=n_ok, other=0.0)[:, None]
        normal = tl.where(ok, (x - mean) * rstd, 0.0)
        dy = tl.load(dy_ptr + at, mask=ok, other=0.0)
        dgamma += dy * normal
        dbeta += dy
        if WITH_DX:
            along = tl.sum(dy * gamma * normal, 1) / channels
            average = tl.sum(dy * gamma, 1) / channels
            dx = rstd * (dy * gamma - average[:, None] - normal * along[:, None])
            tl.store(dx_ptr + at, dx, mask=ok)
    sums = sums_ptr + 2 * tl.program_id(0) * channels + d
    tl.store(sums, tl.sum(dgamma, 0), mask=d_ok)
    tl.store(sums + channels, tl.sum(dbeta, 0), mask=d_ok)


def whitening(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, tasks: Tensor | None = None, positions: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y (B, H, W, D), and for the backward pass mean and 1 / deviation of each token (B, H, W).

    Args:
        x: (B, H, W, D), contiguous.
        gamma, beta: (D,), contiguous; of several tasks (T, D).
        tasks: (B,) int32, which of several tasks each image takes.
        positions: (H, W, D), contiguous, added to x.
    """
    y, mean, rstd = x.new_empty(x.shape), x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1])
    tokens, channels, period = mean.numel(), x.shape[-1], max(1, x.shape[1] * x.shape[2])
    blocks = _blocks(channels)
    _whitening[(triton.cdiv(tokens, blocks["BLOCK_N"]),)](
        x, x if positions is None else positions, gamma, beta, x if tasks is None else tasks, y, mean, rstd, tokens,
        channels, period, eps, POSITIONS=positions is not None, MIXED=tasks is not None, **blocks,
    )  # fmt: skip
    return y, mean, rstd


def whitening_backward(
    dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, rstd: Tensor, with_dx: bool, out: tuple[Tensor, Tensor]
) -> Tensor:
    """The gradient of x, empty without `with_dx`; those of gamma and beta into `out`; arguments as for `whitening`."""
    tokens, channels = mean.numel(), x.shape[-1]
    blocks = _blocks(channels)
    programs = min(PROGRAMS, triton.cdiv(tokens, blocks["BLOCK_N"]))
    dx, sums = x.new_empty(x.shape if with_dx else (0,)), x.new_empty(programs, 2 * channels)
    _whitening_backward[(programs,)](dy, x, gamma, mean, rstd, dx, sums, tokens, channels, WITH_DX=with_dx, **blocks)
    add_partials(sums, out)
    return dx


def _blocks(channels: int) -> dict[str, int]:
    """Blocks of 4096 numbers or of one token."""
    block_d = fitting(channels, 2**16)
    return {"BLOCK_N": max(1, 4096 // block_d), "BLOCK_D": block_d, "num_warps": 8}
