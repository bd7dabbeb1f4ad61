"""Kernels without products: rows in and out of the state, and the gradient of a coupling; see `kernel_cases`.

Their multiply-adds, those of the context, are of fp32 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from cases import CLAMP, Case, Sizes, moved
from counts import Work
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.kernels.coupling import coupling_backward
from moleflow_fast.kernels.latent import state_gradient, state_nll
from moleflow_fast.kernels.products import sum_tiles
from moleflow_fast.kernels.rows import gather_rows, scatter_gradient, taps_gradient
from moleflow_fast.kernels.transpose import enter, leave
from moleflow_fast.ops.coupling import base_clamping

CLAMPING = base_clamping(CLAMP)
SIDE = 3  # of the context
TAPS = SIDE**2
TILES = 72  # of the log-determinant: eight base blocks' and four couplings' of the task flow
PENALTY = 1e-4  # weight of mean(logdet^2)


def tokens_in(sizes: Sizes) -> Case:
    """(N, D) -> (D, N), permuted."""
    x, state, rows = sizes.normal(sizes.tokens, sizes.channels), sizes.state(sizes.channels), _permutation(sizes)

    def definition() -> tuple[Tensor, ...]:
        out = torch.empty_like(state)
        out[rows.long()] = x.T
        return (out,)

    return Case(lambda: (enter(x, rows, state),), definition, Work(0, moved(x, state)), fp32=True)


def tokens_out(sizes: Sizes) -> Case:
    """(D, N) -> (N, D), permuted, with what is pending of each row."""
    x, state, rows = sizes.normal(sizes.tokens, sizes.channels), sizes.state(sizes.channels), _permutation(sizes)
    pending, at = sizes.affine(sizes.channels), rows.long()

    def definition() -> tuple[Tensor, ...]:
        return ((state[at] * pending[at, :1] + pending[at, 1:]).T.contiguous(),)

    return Case(lambda: (leave(state, rows, pending, x),), definition, Work(0, moved(x, state)), fp32=True)


def driving_rows(sizes: Sizes) -> Case:
    """The driving half out of the state, its pending scale and offset applied."""
    state, rows, pending = sizes.state(sizes.channels), sizes.driving_rows, sizes.affine(sizes.channels)
    out, at = sizes.operand(sizes.driver), rows.long()

    def definition() -> tuple[Tensor, ...]:
        return ((state[at] * pending[at, :1] + pending[at, 1:]).to(sizes.dtype),)

    work = Work(0, moved(state[: sizes.driver], out))
    return Case(lambda: (gather_rows(state, rows, pending, out, None, sizes.grid),), definition, work, fp32=True)


def driving_rows_with_context(sizes: Sizes) -> Case:
    """With their depthwise context below them."""
    driver, (taps, bias) = sizes.driver, _context(sizes)
    state, rows, pending = sizes.state(sizes.channels), sizes.driving_rows, sizes.affine(sizes.channels)
    out, at = sizes.operand(2 * driver), rows.long()

    def definition() -> tuple[Tensor, ...]:
        x1 = state[at] * pending[at, :1] + pending[at, 1:]
        context = F.conv2d(_planes(x1, sizes), _filters(taps), bias, padding=SIDE // 2, groups=driver)
        return (torch.cat([x1, _rows_of(context)]).to(sizes.dtype),)

    def kernel() -> tuple[Tensor, ...]:
        return (gather_rows(state, rows, pending, out, (taps, bias), sizes.grid),)

    work = Work(TAPS * driver * sizes.tokens, moved(state[:driver], taps, bias, out))
    return Case(kernel, definition, work, fp32=True)


def coupling_gradient(sizes: Sizes) -> Case:
    """Gradients of x2, s and t from that of the coupling's result."""
    half = sizes.driven
    s, x2, grad = sizes.operand(half), sizes.operand(half), sizes.state(sizes.channels)
    rows, affine, dlogdet = sizes.driven_rows, sizes.affine(half), sizes.normal(sizes.tokens)
    out = sizes.operand(2 * half)
    plain, at, sums = grad.clone(), rows.long(), sizes.normal(sum_tiles(sizes.tokens), 2 * half)

    def definition() -> tuple[Tensor, ...]:
        dy = plain[at] * affine[:, :1]
        tangent = torch.tanh(CLAMPING.s_factor * s.float())
        scale = torch.exp(CLAMPING.clamp * tangent)
        ds = (dy * x2 * scale + dlogdet) * (CLAMPING.clamp * CLAMPING.s_factor) * (1 - tangent**2)
        gradient = torch.cat([ds, CLAMPING.t_factor * dy])
        plain[at] = dy * scale
        return plain, gradient.to(sizes.dtype), gradient.sum(1)

    def kernel() -> tuple[Tensor, ...]:
        written = coupling_backward(s, x2, grad, rows, affine, dlogdet, out, CLAMPING, sums)
        return grad, out, sums[:written].sum(0)

    work = Work(0, moved(s, x2, dlogdet, out) + 2 * moved(grad[:half]))
    return Case(kernel, definition, work, fp32=True)


def driving_gradient(sizes: Sizes) -> Case:
    """A gradient of the driving half added to the state's."""
    dx, grad = sizes.operand(sizes.driver), sizes.state(sizes.channels)
    rows, affine = sizes.driving_rows, sizes.affine(sizes.driver)
    plain, at = grad.clone(), rows.long()

    def kernel() -> tuple[Tensor, ...]:
        scatter_gradient(dx, rows, affine, None, grad, sizes.grid)
        return (grad,)

    def definition() -> tuple[Tensor, ...]:
        plain[at] = plain[at] * affine[:, :1] + dx.float()
        return (plain,)

    return Case(kernel, definition, Work(0, moved(dx) + 2 * moved(grad[: sizes.driver])), fp32=True)


def driving_gradient_with_context(sizes: Sizes) -> Case:
    """With that of the context, through its transposed convolution."""
    driver, (taps, _) = sizes.driver, _context(sizes)
    dx, grad = sizes.operand(2 * driver), sizes.state(sizes.channels)
    rows, affine = sizes.driving_rows, sizes.affine(driver)
    plain, at = grad.clone(), rows.long()

    def kernel() -> tuple[Tensor, ...]:
        scatter_gradient(dx, rows, affine, taps, grad, sizes.grid)
        return (grad,)

    def definition() -> tuple[Tensor, ...]:
        own, context = dx.float().split(driver)
        through = F.conv_transpose2d(_planes(context, sizes), _filters(taps), padding=SIDE // 2, groups=driver)
        plain[at] = plain[at] * affine[:, :1] + own + _rows_of(through)
        return (plain,)

    work = Work(TAPS * driver * sizes.tokens, moved(dx, taps) + 2 * moved(grad[:driver]))
    return Case(kernel, definition, work, fp32=True)


def context_gradient(sizes: Sizes) -> Case:
    """Of the context's taps and bias; they train with the first task alone."""
    x1, dc, (taps, bias) = sizes.operand(sizes.driver), sizes.operand(sizes.driver), _context(sizes)

    def definition() -> tuple[Tensor, ...]:
        inputs, outputs = _planes(x1.float(), sizes), _planes(dc.float(), sizes)
        shape = _filters(taps).shape
        dtaps = torch.nn.grad.conv2d_weight(inputs, shape, outputs, padding=SIDE // 2, groups=sizes.driver)
        return dtaps.view(-1, TAPS).T, dc.sum(1, dtype=torch.float32)

    out = torch.empty_like(taps), torch.empty_like(bias)

    def kernel() -> tuple[Tensor, ...]:
        taps_gradient(x1, dc, SIDE, sizes.grid, out)
        return out

    work = Work(TAPS * sizes.driver * sizes.tokens, moved(x1, dc, taps, bias))
    return Case(kernel, definition, work, fp32=True)


def likelihood(sizes: Sizes) -> Case:
    """-log p of tokens from the state, with the parts of their log-determinants."""
    state, tiles, pending = sizes.state(sizes.channels), sizes.state(TILES), sizes.affine(sizes.channels)
    log_scales, nll, logdet = sizes.normal(1)[0], sizes.normal(sizes.tokens), sizes.normal(sizes.tokens)

    def definition() -> tuple[Tensor, ...]:
        z = state * pending[:, :1] + pending[:, 1:]
        total = tiles.sum(0) + log_scales
        return 0.5 * z.square().sum(0) + 0.5 * sizes.channels * math.log(2 * math.pi) - total, total

    def kernel() -> tuple[Tensor, ...]:
        state_nll(state, pending, tiles, log_scales, nll, logdet)
        return nll, logdet

    return Case(kernel, definition, Work(0, moved(state, tiles, nll, logdet)), fp32=True)


def likelihood_gradient(sizes: Sizes) -> Case:
    """Gradients of the state and of the log-determinants for weights of the tokens."""
    state, grad, pending = sizes.state(sizes.channels), sizes.state(sizes.channels), sizes.affine(sizes.channels)
    dloss, weights, logdet = sizes.normal(1)[0], sizes.normal(sizes.tokens), sizes.normal(sizes.tokens)
    dlogdet = torch.empty_like(logdet)

    def definition() -> tuple[Tensor, ...]:
        z = state * pending[:, :1] + pending[:, 1:]
        return dloss * weights * z, dloss * (2 * PENALTY / sizes.tokens * logdet - weights)

    def kernel() -> tuple[Tensor, ...]:
        state_gradient(dloss, weights, state, pending, logdet, PENALTY, grad, dlogdet)
        return grad, dlogdet

    return Case(kernel, definition, Work(0, moved(state, grad, weights, logdet, dlogdet)), fp32=True)


CASES: dict[str, Callable[[Sizes], Case]] = {
    "enter": tokens_in,
    "leave": tokens_out,
    "gather_rows": driving_rows,
    "gather_rows with context": driving_rows_with_context,
    "coupling_backward": coupling_gradient,
    "scatter_gradient": driving_gradient,
    "scatter_gradient with context": driving_gradient_with_context,
    "taps_gradient": context_gradient,
    "state_nll": likelihood,
    "state_gradient": likelihood_gradient,
}


def _permutation(sizes: Sizes) -> Tensor:
    return torch.randperm(sizes.channels, device=sizes.device).int()


def _context(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Taps and bias."""
    return sizes.normal(TAPS, sizes.driver), sizes.normal(sizes.driver)


def _filters(taps: Tensor) -> Tensor:
    """As torch's convolutions take them, (C, 1, k, k)."""
    return taps.T.reshape(-1, 1, SIDE, SIDE)


def _planes(rows: Tensor, sizes: Sizes) -> Tensor:
    """(C, N) -> (images, C, H, W)."""
    return rows.reshape(-1, *sizes.grid).transpose(0, 1)


def _rows_of(planes: Tensor) -> Tensor:
    """Back again."""
    return planes.transpose(0, 1).flatten(1)
