"""The flow's Triton kernels one by one, at the sizes of a coupling block of the base flow, beside plain PyTorch.

Both sides get the same channel-major operands; tests/bench/test_kernel_cases.py holds their results together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from counts import FLOAT, Work
from device import DEVICE
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.kernels import channel_major
from moleflow_fast.kernels.coupling import coupling_backward, coupling_product, logdet_tiles
from moleflow_fast.kernels.products import relu_gradient_product, relu_product
from moleflow_fast.kernels.rows import gather_rows
from moleflow_fast.ops.coupling import base_clamping

CLAMPING = base_clamping(1.9)
TAPS = 9  # of a 3 x 3 context


@dataclass(frozen=True)
class Sizes:
    """A block with context: `channels` D, of which the halves drive and are driven; a grid of (images, H, W)."""

    channels: int
    grid: tuple[int, int, int]
    dtype: torch.dtype = torch.float32  # of what products read

    @property
    def half(self) -> int:
        return self.channels // 2

    @property
    def tokens(self) -> int:
        images, height, width = self.grid
        return images * height * width

    @property
    def inner(self) -> tuple[int, int]:
        """Inputs of the scale network (driving half and its context) and of the shift network."""
        return self.channels, self.half

    def operand(self, rows: int) -> Tensor:
        """(rows, N) as products read it."""
        return self.state(rows, self.dtype)

    def state(self, rows: int, dtype: torch.dtype | None = None) -> Tensor:
        """(rows, N), fp32 by default."""
        out = channel_major(rows, self.tokens, torch.empty(0, device=DEVICE), dtype)
        return out.copy_(torch.randn(rows, self.tokens, device=DEVICE))

    def weight(self, rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, device=DEVICE) / columns**0.5).to(self.dtype)

    def bytes(self, operands: int, floats: int) -> int:
        """Of so many values that products read, and so many fp32 ones."""
        return self.dtype.itemsize * operands + FLOAT * floats


@dataclass(frozen=True)
class Case:
    """`kernel` and `definition` return what they compute; either may also change operands that it is given anew."""

    kernel: Callable[[], tuple[Tensor, ...]]
    definition: Callable[[], tuple[Tensor, ...]]
    work: Work


def hidden_layer(sizes: Sizes) -> Case:
    """relu(W x + b) of both networks."""
    d, tokens, half = sizes.channels, sizes.tokens, sizes.half
    weight, bias, x = sizes.weight(2 * d, d), torch.randn(2 * d, device=DEVICE), sizes.operand(d)
    out = sizes.operand(2 * d)

    def definition() -> tuple[Tensor, ...]:
        scale = torch.addmm(bias[:d, None].to(x), weight[:d], x)
        shift = torch.addmm(bias[d:, None].to(x), weight[d:, :half], x[:half])
        return (torch.cat([scale, shift]).relu_(),)

    macs = tokens * d * sum(sizes.inner)
    work = Work(macs, sizes.bytes(d * sum(sizes.inner) + 3 * d * tokens, 2 * d))
    return Case(lambda: (relu_product(weight, bias, x, out, sizes.inner),), definition, work)


def hidden_gradient(sizes: Sizes) -> Case:
    """W^T dy where the ReLU let through, of both networks, and its sums over tokens."""
    d, tokens, half = sizes.channels, sizes.tokens, sizes.half
    weight, dy, hidden = sizes.weight(2 * half, d), sizes.operand(2 * half), sizes.operand(2 * d)
    out = sizes.operand(2 * d)

    def definition() -> tuple[Tensor, ...]:
        products = [weight[rows].T @ dy[rows] for rows in (slice(half), slice(half, None))]
        gradient = torch.cat(products).masked_fill_(hidden <= 0, 0)
        return gradient, gradient.sum(1, dtype=torch.float32)

    work = Work(tokens * 2 * half * d, sizes.bytes(2 * half * d + (2 * half + 4 * d) * tokens, 2 * d))
    return Case(lambda: relu_gradient_product(weight, dy, hidden, out, 2), definition, work)


def coupling(sizes: Sizes) -> Case:
    """[s; t] = W h + b and the coupling of the driven rows, with s and x2 kept for the backward pass."""
    d, tokens, half = sizes.channels, sizes.tokens, sizes.half
    weight, bias = sizes.weight(2 * half, d), torch.randn(2 * half, device=DEVICE)
    hidden, state = sizes.operand(2 * d).split(d), sizes.state(d)
    rows, pending, affine = _rows(half), _affine(d), _affine(half)
    partial = channel_major(logdet_tiles(half, tokens, sizes.dtype), tokens, state)
    kept = (sizes.state(half), sizes.state(half))
    plain, at = state.clone(), rows.long()

    def kernel() -> tuple[Tensor, ...]:
        coupling_product(weight, bias, hidden, state, rows, pending, affine, partial, CLAMPING, kept)
        return state, partial.sum(0), *kept

    def definition() -> tuple[Tensor, ...]:
        s, t = (
            (weight[part] @ h).float() + bias[part, None]
            for part, h in zip((slice(half), slice(half, None)), hidden, strict=True)
        )
        x2 = plain[at] * pending[at, :1] + pending[at, 1:]
        log_scale = CLAMPING.clamp * torch.tanh(CLAMPING.s_factor * s)
        y2 = x2 * log_scale.exp() + CLAMPING.t_factor * t
        plain[at] = y2 * affine[:, :1] + affine[:, 1:]
        return plain, log_scale.sum(0), s, x2

    operands, floats = 2 * half * d + 2 * d * tokens, (4 * half + 1) * tokens  # x2 and y2; s and x2 kept; logdet
    return Case(kernel, definition, Work(tokens * 2 * half * d, sizes.bytes(operands, floats)))


def coupling_gradient(sizes: Sizes) -> Case:
    """Gradients of x2, s and t from that of the coupling's result."""
    tokens, half = sizes.tokens, sizes.half
    s, x2, grad = sizes.state(half), sizes.state(half), sizes.state(sizes.channels)
    rows, affine, dlogdet = _rows(half), _affine(half), torch.randn(tokens, device=DEVICE)
    out = sizes.operand(2 * half)
    plain, at = grad.clone(), rows.long()

    def definition() -> tuple[Tensor, ...]:
        dy = plain[at] * affine[:, :1]
        tangent = torch.tanh(CLAMPING.s_factor * s)
        scale = torch.exp(CLAMPING.clamp * tangent)
        ds = (dy * x2 * scale + dlogdet) * (CLAMPING.clamp * CLAMPING.s_factor) * (1 - tangent**2)
        gradient = torch.cat([ds, CLAMPING.t_factor * dy])
        plain[at] = dy * scale
        return plain, gradient.to(sizes.dtype), gradient.sum(1)

    def kernel() -> tuple[Tensor, ...]:
        sums = coupling_backward(s, x2, grad, rows, affine, dlogdet, out, CLAMPING)
        return grad, out, sums

    work = Work(0, sizes.bytes(2 * half * tokens, (4 * half + 1) * tokens))
    return Case(kernel, definition, work)


def driving_rows(sizes: Sizes) -> Case:
    """The driving half out of the state, its pending scale and offset applied, with its depthwise context."""
    d, tokens, half = sizes.channels, sizes.tokens, sizes.half
    state, rows, pending = sizes.state(d), _rows(half), _affine(d)
    taps, bias = torch.randn(TAPS, half, device=DEVICE), torch.randn(half, device=DEVICE)
    out, at, (images, height, width) = sizes.operand(2 * half), rows.long(), sizes.grid

    def definition() -> tuple[Tensor, ...]:
        x1 = state[at] * pending[at, :1] + pending[at, 1:]
        planes = x1.view(half, images, height, width).transpose(0, 1)
        context = F.conv2d(planes, taps.T.reshape(half, 1, 3, 3), bias, padding=1, groups=half)
        return (torch.cat([x1, context.transpose(0, 1).reshape(half, tokens)]).to(sizes.dtype),)

    work = Work(TAPS * half * tokens, sizes.bytes(2 * half * tokens, half * tokens))
    return Case(lambda: (gather_rows(state, rows, pending, out, (taps, bias), sizes.grid),), definition, work)


CASES: dict[str, Callable[[Sizes], Case]] = {
    "relu_product": hidden_layer,
    "relu_gradient_product": hidden_gradient,
    "coupling_product": coupling,
    "coupling_backward": coupling_gradient,
    "gather_rows with context": driving_rows,
}
PRODUCTS = ("relu_product", "relu_gradient_product", "coupling_product")


def _rows(count: int) -> Tensor:
    """Every second row of the state, int32 as kernels read them."""
    return torch.arange(0, 2 * count, 2, dtype=torch.int32, device=DEVICE)


def _affine(rows: int) -> Tensor:
    """Scales near 1 and offsets near 0, (rows, 2): benchmarks apply them over and over to the same state."""
    return torch.tensor([1.0, 0.0], device=DEVICE) + 0.001 * torch.randn(rows, 2, device=DEVICE)
