"""Negative log-likelihood of patches, -log p = |z|^2 / 2 + D/2 ln(2 pi) - log|det|, and the loss of a batch.

|z|^2 and the sums over patches are added up in fp64 by the compiled part, whatever the dtype of z.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import operator_on_triton, runs_compiled, runs_on_triton
from moleflow_fast.ops.native import threads


def patch_nll(z: Tensor, logdet: Tensor) -> Tensor:
    """-log p per patch in nats (B, H, W), for the latent z (B, H, W, D) and its log-determinant (B, H, W).

    Raises:
        ValueError: the shapes do not fit.
    """
    _check_shapes(z, logdet)
    if z.numel() and (runs_compiled(z, logdet) or runs_on_triton(z, logdet)):
        return torch.ops.moleflow.patch_nll(z, logdet)
    return patch_nll_reference(z, logdet)


def density_loss(
    z: Tensor, logdet: Tensor, *, tail_weight: float | None, tail_top_k_ratio: float, lambda_logdet: float
) -> Tensor:
    """The training loss of a batch, a scalar; not finite as soon as one patch's -log p is not.

    Args:
        z: latent (B, H, W, D); logdet: its log-determinant (B, H, W).
        tail_weight: None for the plain loss, the mean over images of the sum over patches. Otherwise
            (1 - w) * mean over patches + w * mean over the k largest -log p of each image.
        tail_top_k_ratio: k = max(1, int(H W * ratio)); which of equal patches belong to the k is not specified.
        lambda_logdet: weight of mean(logdet^2), added to either.

    Raises:
        ValueError: the shapes do not fit, there is no patch, or the ratio is not in [0, 1].
    """
    _check_shapes(z, logdet)
    if z.numel() == 0:
        raise ValueError(f"a loss needs at least one patch, got z {tuple(z.shape)}")
    if not 0 <= tail_top_k_ratio <= 1:
        raise ValueError(f"tail_top_k_ratio must be in [0, 1], got {tail_top_k_ratio}")
    if runs_compiled(z, logdet) or runs_on_triton(z, logdet):
        tail = 0 if tail_weight is None else tail_size(logdet[0].numel(), tail_top_k_ratio)
        return torch.ops.moleflow.density_loss(z, logdet, tail, tail_weight or 0.0, lambda_logdet)[0]
    return density_loss_reference(
        z, logdet, tail_weight=tail_weight, tail_top_k_ratio=tail_top_k_ratio, lambda_logdet=lambda_logdet
    )


def patch_nll_reference(z: Tensor, logdet: Tensor) -> Tensor:
    """The definition of `patch_nll`."""
    return 0.5 * (z**2).sum(-1) + 0.5 * z.shape[-1] * math.log(2 * math.pi) - logdet


def density_loss_reference(
    z: Tensor, logdet: Tensor, *, tail_weight: float | None, tail_top_k_ratio: float, lambda_logdet: float
) -> Tensor:
    """The definition of `density_loss`."""
    nll = patch_nll_reference(z, logdet)
    loss = nll_loss(nll) if tail_weight is None else tail_aware_loss(nll, tail_weight, tail_top_k_ratio)
    # A tail of weight 1 can leave -inf out, and the loss must not hide it.
    return torch.where(nll.isfinite().all(), loss, torch.nan) + lambda_logdet * logdet_penalty(logdet)


def nll_loss(nll: Tensor) -> Tensor:
    """Mean over images of the sum over patches, for nll (B, H, W)."""
    return nll.flatten(1).sum(1).mean()


def tail_aware_loss(nll: Tensor, weight: float, top_k_ratio: float) -> Tensor:
    """(1 - w) * mean(nll) + w * mean(the k largest per image), k = max(1, int(H W * ratio))."""
    patches = nll.flatten(1)  # (B, H*W)
    tail = patches.topk(tail_size(patches.shape[1], top_k_ratio), dim=1).values
    return (1 - weight) * patches.mean() + weight * tail.mean()


def logdet_penalty(logdet: Tensor) -> Tensor:
    """mean(logdet^2): keeps the flow from growing volume without bound."""
    return (logdet**2).mean()


def tail_size(patches: int, top_k_ratio: float) -> int:
    """How many of an image's patches are its tail.

    Raises:
        ValueError: the ratio is not in [0, 1].
    """
    if not 0 <= top_k_ratio <= 1:
        raise ValueError(f"tail_top_k_ratio must be in [0, 1], got {top_k_ratio}")
    return max(1, int(patches * top_k_ratio))


def _check_shapes(z: Tensor, logdet: Tensor) -> None:
    if z.dim() != 4 or logdet.shape != z.shape[:-1]:
        raise ValueError(f"expected z (B, H, W, D) and logdet (B, H, W), got {tuple(z.shape)}, {tuple(logdet.shape)}")


def _triton() -> ModuleType:
    """Imported when first needed: an installation for the CPU may lack Triton."""
    from moleflow_fast.kernels import density

    return density


@torch.library.custom_op("moleflow::patch_nll", mutates_args=())
def _patch_nll(z: Tensor, logdet: Tensor) -> Tensor:
    z, logdet = z.contiguous(), logdet.contiguous()
    if operator_on_triton(z):
        return _triton().patch_nll(z, logdet)
    nll = torch.empty_like(logdet)
    compiled.patch_nll(z, logdet, nll, threads())
    return nll


@_patch_nll.register_fake
def _(z: Tensor, logdet: Tensor) -> Tensor:
    return torch.empty_like(logdet, memory_format=torch.contiguous_format)


@torch.library.custom_op("moleflow::patch_nll_backward", mutates_args=())
def _patch_nll_backward(grad: Tensor, z: Tensor) -> Tensor:
    """grad (B, H, W) times z (B, H, W, D): the gradient of z."""
    grad, z = grad.contiguous(), z.contiguous()
    if operator_on_triton(z):
        return _triton().patch_nll_backward(grad, z)
    dz = torch.empty_like(z)
    compiled.scale_patches(z, grad, dz, threads())
    return dz


@_patch_nll_backward.register_fake
def _(grad: Tensor, z: Tensor) -> Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def _save_z(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[0])


def _patch_nll_gradients(ctx, grad):  # type: ignore[no-untyped-def]
    dz = torch.ops.moleflow.patch_nll_backward(grad, *ctx.saved_tensors) if ctx.needs_input_grad[0] else None
    return dz, -grad


_patch_nll.register_autograd(_patch_nll_gradients, setup_context=_save_z)


@torch.library.custom_op("moleflow::density_loss", mutates_args=())
def _density_loss(
    z: Tensor, logdet: Tensor, tail: int, tail_weight: float, lambda_logdet: float
) -> tuple[Tensor, Tensor]:
    """The loss () and, for its backward, d loss / d nll (B, H, W); tail 0 is the plain loss."""
    z, logdet = z.contiguous(), logdet.contiguous()
    if operator_on_triton(z):
        return _triton().density_loss(z, logdet, tail, tail_weight, lambda_logdet)
    loss, weights = z.new_empty(()), torch.empty_like(logdet)
    compiled.density_loss(z, logdet, loss, weights, tail, tail_weight, lambda_logdet, threads())
    return loss, weights


@_density_loss.register_fake
def _(z: Tensor, logdet: Tensor, tail: int, tail_weight: float, lambda_logdet: float) -> tuple[Tensor, Tensor]:
    return z.new_empty(()), torch.empty_like(logdet, memory_format=torch.contiguous_format)


@torch.library.custom_op("moleflow::density_loss_backward", mutates_args=())
def _density_loss_backward(
    grad: Tensor, weights: Tensor, z: Tensor, logdet: Tensor, lambda_logdet: float
) -> tuple[Tensor, Tensor]:
    z, logdet = z.contiguous(), logdet.contiguous()
    if operator_on_triton(z):
        return _triton().density_loss_backward(grad, weights, z, logdet, lambda_logdet)
    dz, dlogdet = torch.empty_like(z), torch.empty_like(logdet)
    compiled.density_loss_backward(grad, weights, z, logdet, dz, dlogdet, lambda_logdet, threads())
    return dz, dlogdet


@_density_loss_backward.register_fake
def _(grad: Tensor, weights: Tensor, z: Tensor, logdet: Tensor, lambda_logdet: float) -> tuple[Tensor, Tensor]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (z, logdet))  # type: ignore[return-value]


def _save_weights(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    z, logdet, _, _, ctx.lambda_logdet = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], z, logdet)


def _density_loss_gradients(ctx, grad, _):  # type: ignore[no-untyped-def]
    if grad is None:
        return None, None, None, None, None
    dz, dlogdet = torch.ops.moleflow.density_loss_backward(grad, *ctx.saved_tensors, ctx.lambda_logdet)
    return dz, dlogdet, None, None, None


_density_loss.register_autograd(_density_loss_gradients, setup_context=_save_weights)
