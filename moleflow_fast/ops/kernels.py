"""The compiled steps between matrix products, on views whose rows are contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_fast.ops.native import call, threads


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """out (n, outputs) = max(x weight^T + bias, 0)."""
    torch.mm(x, weight.t(), out=out)
    call("bias_relu", out.dtype, out, out.stride(0), bias, *out.shape, threads())
    return out


def relu_backward(dh: Tensor, h: Tensor, bias_gradient: Tensor) -> None:
    """dh (n, width) becomes 0 where h is not positive, in place; its column sums are added to `bias_gradient`."""
    call("relu_backward", dh.dtype, dh, dh.stride(0), h, h.stride(0), bias_gradient, *dh.shape, threads())


def depthwise(
    x: Tensor, taps: Tensor, bias: Tensor | None, out: Tensor, grid: tuple[int, int, int], accumulate: bool = False
) -> None:
    """Depthwise convolution of x (n, C) on `grid` (images, H, W), n = images * H * W; taps (k * k, C)."""
    kernel = round(taps.shape[0] ** 0.5)
    strides = (x.stride(0), out.stride(0))
    call(
        "depthwise_forward", x.dtype, x, strides[0], taps, bias, out, strides[1], *grid, x.shape[1], kernel,
        accumulate, threads(),
    )  # fmt: skip


def depthwise_backward_taps(x: Tensor, dy: Tensor, dtaps: Tensor, dbias: Tensor, grid: tuple[int, int, int]) -> None:
    """Add the gradients of taps (k * k, C) and bias (C,) to `dtaps` and `dbias`."""
    kernel = round(dtaps.shape[0] ** 0.5)
    call(
        "depthwise_backward_taps", x.dtype, x, x.stride(0), dy, dy.stride(0), dtaps, dbias, *grid, x.shape[1],
        kernel, threads(),
    )  # fmt: skip


def coupling(
    s: Tensor, t: Tensor, biases: tuple[Tensor | None, Tensor | None], x2: Tensor, y2: Tensor, logdet: Tensor,
    clamping: tuple[float, float, float],
) -> None:  # fmt: skip
    """y2 = x2 * exp(log-scale) + shift, added log-scales in `logdet`; `clamping` is (clamp, s factor, t factor)."""
    call(
        "coupling_forward", x2.dtype, s, s.stride(0), t, t.stride(0), *biases, x2, x2.stride(0), y2, y2.stride(0),
        logdet, *x2.shape, *clamping, threads(),
    )  # fmt: skip


def coupling_backward(
    s: Tensor, s_bias: Tensor | None, x2: Tensor, dy2: Tensor, dlogdet: Tensor, ds: Tensor, dt: Tensor,
    sums: tuple[Tensor, Tensor], clamping: tuple[float, float, float],
) -> None:  # fmt: skip
    """dy2 becomes dx2 in place; ds, dt are written, their column sums added to `sums`."""
    call(
        "coupling_backward", x2.dtype, s, s.stride(0), s_bias, x2, x2.stride(0), dy2, dy2.stride(0), dlogdet,
        ds, ds.stride(0), dt, dt.stride(0), *sums, *x2.shape, *clamping, threads(),
    )  # fmt: skip
