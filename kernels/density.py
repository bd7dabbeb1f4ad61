"""-log p of patches, and the loss of a batch with the tail of each image, on row-major tokens."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .selection import choose, kth_largest, room_for_ties
from .tiles import fitting


@triton.jit
def _patch_nll(
    z_ptr, logdet_ptr, nll_ptr, tokens, channels, constant, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_ok = n < tokens
    rows = z_ptr + n.to(tl.int64)[:, None] * channels
    squares = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, channels, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        z = tl.load(rows + d[None, :], mask=n_ok[:, None] & (d < channels)[None, :], other=0.0)
        squares += z * z
    logdet = tl.load(logdet_ptr + n, mask=n_ok, other=0.0)
    tl.store(nll_ptr + n, 0.5 * tl.sum(squares, 1) + constant - logdet, mask=n_ok)


@triton.jit
def _image_sums(
    nll_ptr, logdet_ptr, weights_ptr, sums_ptr, patches, tail, plain_weight, tail_weight,
    TAIL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * patches
    nll_ptr += first
    if TAIL:
        kth = kth_largest(nll_ptr, patches, tail, BLOCK)
        room = room_for_ties(nll_ptr, patches, tail, kth, BLOCK)
        ties = 0
    # fp64: the sum of what is finite stays finite, so that the loss is not finite just where a patch is not.
    total = tl.zeros((BLOCK,), tl.float64)
    in_tail = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, patches, BLOCK):
        at = start + tl.arange(0, BLOCK)
        ok = at < patches
        nll = tl.load(nll_ptr + at, mask=ok, other=0.0)
        logdet = tl.load(logdet_ptr + first + at, mask=ok, other=0.0).to(tl.float64)
        weight = tl.zeros((BLOCK,), tl.float32) + plain_weight
        if TAIL:
            chosen, ties = choose(nll, ok, kth, room, ties)
            weight += tl.where(chosen, tail_weight, 0.0)
            in_tail += tl.where(chosen, nll, 0.0).to(tl.float64)
        total += nll.to(tl.float64)
        squares += logdet * logdet
        tl.store(weights_ptr + first + at, weight, mask=ok)
    sums_ptr += 3 * tl.program_id(0)
    tl.store(sums_ptr, tl.sum(total, 0))
    tl.store(sums_ptr + 1, tl.sum(in_tail, 0))
    tl.store(sums_ptr + 2, tl.sum(squares, 0))


@triton.jit
def _combine(sums_ptr, loss_ptr, images, plain_weight, tail_weight, penalty, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, images, BLOCK):
        image = start + tl.arange(0, BLOCK)
        sums = sums_ptr + 3 * image
        total += plain_weight * tl.load(sums, mask=image < images, other=0.0)
        total += tail_weight * tl.load(sums + 1, mask=image < images, other=0.0)
        total += penalty * tl.load(sums + 2, mask=image < images, other=0.0)
    tl.store(loss_ptr, tl.sum(total, 0).to(tl.float32))


@triton.jit
def _latent_gradient(
    grad_ptr, weights_ptr, z_ptr, logdet_ptr, dz_ptr, dlogdet_ptr, tokens, channels, penalty,
    LOSS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_ok = n < tokens
    weight = tl.load(weights_ptr + n, mask=n_ok, other=0.0)
    if LOSS:
        grad = tl.load(grad_ptr)
        logdet = tl.load(logdet_ptr + n, mask=n_ok, other=0.0)
        tl.store(dlogdet_ptr + n, grad * (penalty * logdet - weight), mask=n_ok)
        weight *= grad
    rows = n.to(tl.int64)[:, None] * channels
    for start in range(0, channels, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        ok = n_ok[:, None] & (d < channels)[None, :]
        z = tl.load(z_ptr + rows + d[None, :], mask=ok, other=0.0)
        tl.store(dz_ptr + rows + d[None, :], weight[:, None] * z, mask=ok)


def patch_nll(z: Tensor, logdet: Tensor) -> Tensor:
    """-log p (B, H, W) of z (B, H, W, D) with log-determinants (B, H, W), all contiguous."""
    nll = logdet.new_empty(logdet.shape)
    tokens, channels = nll.numel(), z.shape[-1]
    programs, blocks = _tiling(tokens, channels)
    _patch_nll[programs](z, logdet, nll, tokens, channels, 0.5 * channels * math.log(2 * math.pi), **blocks)
    return nll


def patch_nll_backward(grad: Tensor, z: Tensor) -> Tensor:
    """grad (B, H, W) times z (B, H, W, D): the gradient of z."""
    dz = z.new_empty(z.shape)
    programs, blocks = _tiling(grad.numel(), z.shape[-1])
    _latent_gradient[programs](grad, grad, z, grad, dz, grad, grad.numel(), z.shape[-1], 0.0, LOSS=False, **blocks)
    return dz


def density_loss(
    z: Tensor, logdet: Tensor, tail: int, tail_weight: float, lambda_logdet: float
) -> tuple[Tensor, Tensor]:
    """The loss () of z (B, H, W, D) and logdet (B, H, W), and its derivative by each nll; see `loss_of_patches`."""
    return loss_of_patches(patch_nll(z, logdet), logdet, tail, tail_weight, lambda_logdet)


def loss_of_patches(
    nll: Tensor, logdet: Tensor, tail: int, tail_weight: float, lambda_logdet: float
) -> tuple[Tensor, Tensor]:
    """The loss () of nll and logdet (B, H, W), and its derivative by each nll (B, H, W).

    Args:
        tail: size of each image's tail, of equal patches the first; 0 for the plain loss.
        tail_weight: the tail's share of the loss.
        lambda_logdet: weight of mean(logdet^2).
    """
    images, patches, weights = len(nll), nll[0].numel(), nll.new_empty(nll.shape)
    loss, sums = nll.new_empty(()), nll.new_empty(images, 3, dtype=torch.float64)
    plain = (1 - tail_weight) / (images * patches) if tail else 1 / images
    extra = tail_weight / (images * tail) if tail else 0.0
    # With eight warps and 1,024 patches sm_90 spills 8 bytes; with four it takes 123 registers.
    _image_sums[(images,)](
        nll, logdet, weights, sums, patches, tail, plain, extra, TAIL=tail > 0, BLOCK=fitting(patches, 2048),
        num_warps=4,
    )  # fmt: skip
    penalty = lambda_logdet / (images * patches)
    _combine[(1,)](sums, loss, images, plain, extra, penalty, BLOCK=fitting(images, 256))
    return loss, weights


def density_loss_backward(
    grad: Tensor, weights: Tensor, z: Tensor, logdet: Tensor, lambda_logdet: float
) -> tuple[Tensor, Tensor]:
    """Gradients of z and logdet for that of the loss, grad (); weights as `density_loss` gives them."""
    dz, dlogdet = z.new_empty(z.shape), logdet.new_empty(logdet.shape)
    tokens, channels = logdet.numel(), z.shape[-1]
    programs, blocks = _tiling(tokens, channels)
    _latent_gradient[programs](
        grad, weights, z, logdet, dz, dlogdet, tokens, channels, 2 * lambda_logdet / tokens, LOSS=True, **blocks
    )
    return dz, dlogdet


def _tiling(tokens: int, channels: int) -> tuple[tuple[int], dict[str, int]]:
    """Programs, and blocks of 4096 numbers."""
    block_d = fitting(channels, 512)
    block_n = 4096 // block_d
    return (triton.cdiv(tokens, block_n),), {"BLOCK_N": block_n, "BLOCK_D": block_d}
