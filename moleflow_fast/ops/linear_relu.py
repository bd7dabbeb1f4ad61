"""What follows a matrix product in a two-layer network, on rows of tokens in the compiled part."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_fast._compiled import compiled
from moleflow_fast.ops.native import threads


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """out (n, outputs) = max(x weight^T + bias, 0)."""
    torch.mm(x, weight.t(), out=out)
    compiled.bias_relu(out, bias, threads())
    return out


def relu_backward(dh: Tensor, h: Tensor, bias_gradient: Tensor) -> None:
    """dh (n, width) becomes 0 where h is not positive, in place; its column sums are added to `bias_gradient`."""
    compiled.relu_backward(dh, h, bias_gradient, threads())
