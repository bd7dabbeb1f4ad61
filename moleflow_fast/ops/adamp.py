"""One step of AdamP (Heo et al., ICLR 2021; package `adamp` 0.3) over all tensors of an optimizer, with clipping.

Adam's perturbation of a parameter loses its component along the parameter where the gradient is nearly orthogonal to
it, row by row (channels) or as a whole (layer): scale-invariant weights then do not grow. Weight decay of such a
parameter is multiplied by `wd_ratio`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import increment_version

from moleflow_fast._compiled import compiled
from moleflow_fast.backend import runs_compiled
from moleflow_fast.kernels.adamp_groups import AdamPSettings, AdamPTensor, Group
from moleflow_fast.ops.native import threads


@torch.no_grad()
def adamp_step(groups: Sequence[Group], max_norm: float | None = None) -> float | None:
    """Update parameters and moments in place; gradients are left as they are.

    Args:
        max_norm: take the step with gradients scaled by min(1, max_norm / (norm + 1e-6)), norm over all of them.

    Returns:
        None without `max_norm`, else the norm before scaling. If it is not finite, nothing was changed.

    Everything contiguous, on the CPU and of one dtype, fp32 or fp64, is one compiled call (its result does not depend
    on the number of threads); anything else takes plain PyTorch.
    """
    tensors = [t for _, own in groups for t in own]
    if not tensors:
        return None if max_norm is None else 0.0
    operands = [operand for t in tensors for operand in t[:4]]
    written = [operand for t in tensors for operand in (t.parameter, t.exp_avg, t.exp_avg_sq)]
    scattered = not all(t.is_contiguous() for t in written)
    if not runs_compiled(*operands, why_not="parameters or moments are not contiguous" if scattered else None):
        return adamp_step_reference(groups, max_norm)
    read = [(settings, [_contiguous(t) for t in own]) for settings, own in groups]
    norm = compiled.adamp(read, max_norm, threads())
    if max_norm is None or math.isfinite(norm):
        increment_version(written)
    return None if max_norm is None else norm


@torch.no_grad()
def adamp_step_reference(groups: Sequence[Group], max_norm: float | None = None) -> float | None:
    """`adamp_step` in plain PyTorch: the definition."""
    norm, scale = None, 1.0
    if max_norm is not None:
        norm = float(torch.nn.utils.get_total_norm([t.gradient for _, own in groups for t in own]))
        if not math.isfinite(norm):
            return norm
        scale = min(1.0, max_norm / (norm + 1e-6))
    for settings, own in groups:
        for tensor in own:
            _update(settings, tensor, tensor.gradient * scale)
    return norm


def _update(s: AdamPSettings, t: AdamPTensor, gradient: Tensor) -> None:
    t.exp_avg.mul_(s.beta1).add_(gradient, alpha=1 - s.beta1)
    t.exp_avg_sq.mul_(s.beta2).addcmul_(gradient, gradient, value=1 - s.beta2)
    momentum = s.beta1 * t.exp_avg + (1 - s.beta1) * gradient if s.nesterov else t.exp_avg
    perturbation = momentum / (t.exp_avg_sq.sqrt() / math.sqrt(1 - s.beta2**t.step) + s.eps)
    perturbation, decay_ratio = _project(s, t.parameter, gradient, perturbation)
    if s.weight_decay > 0:
        t.parameter.mul_(1 - s.lr * s.weight_decay * decay_ratio)
    t.parameter.add_(perturbation, alpha=-s.lr / (1 - s.beta1**t.step))


def _project(s: AdamPSettings, parameter: Tensor, gradient: Tensor, perturbation: Tensor) -> tuple[Tensor, float]:
    """The perturbation without its component along the parameter where the test says so, and the decay's ratio."""
    if parameter.dim() < 2 or parameter.numel() == 0:
        return perturbation, 1.0
    for rows in (parameter.shape[0], 1):  # channels, then the layer as one row
        p, g, u = (t.reshape(rows, -1) for t in (parameter, gradient, perturbation))
        cosine = F.cosine_similarity(g, p, dim=1, eps=s.eps).abs()
        if cosine.max() < s.delta / math.sqrt(p.shape[1]):
            unit = p / (p.norm(dim=1, keepdim=True) + s.eps)
            return (u - unit * (unit * u).sum(1, keepdim=True)).view_as(parameter), s.wd_ratio
    return perturbation, 1.0


def _contiguous(t: AdamPTensor) -> AdamPTensor:
    return t if t.gradient.is_contiguous() else t._replace(gradient=t.gradient.contiguous())
