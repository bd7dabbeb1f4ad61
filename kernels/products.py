"""Products of two networks at once on channel-major tokens: hidden layers with bias and ReLU, and their gradients.

The scale and the shift network of a coupling are network 0 and 1: both have the same number of outputs, their weights
may reduce over different numbers of inputs (`inner`) that start at different rows (`first_row`). Several ways lead to
each result: tiles read through `pointers` or `descriptors`, or the `library`; a table chooses (`ways`).
"""

from __future__ import annotations

import triton
from torch import Tensor

from . import descriptors, library, pointers
from .operands import Hidden, HiddenGradient
from .pointers import accumulate
from .tiles import fitting, precision
from .ways import Implementation, perform

__all__ = ["accumulate", "fitting", "precision", "relu_gradient_product", "relu_product", "sum_tiles"]

LEAST_TOKENS = 64  # of any way's tiles, where there are as many

_HIDDEN = {
    "pointers": Implementation(pointers.relu_product, pointers.takes),
    "descriptors": Implementation(descriptors.relu_product, descriptors.takes_relu_product),
    "library": Implementation(library.relu_product, library.takes),
}
_HIDDEN_GRADIENT = {
    "pointers": Implementation(pointers.relu_gradient_product, pointers.takes),
    "descriptors": Implementation(descriptors.relu_gradient_product, descriptors.takes_relu_gradient_product),
    "library": Implementation(library.relu_gradient_product, library.takes),
}


def sum_tiles(tokens: int) -> int:
    """Rows of partial sums over tokens that any way may write."""
    return triton.cdiv(tokens, LEAST_TOKENS)


def relu_product(
    weight: Tensor, bias: Tensor, x: Tensor, out: Tensor, inner: tuple[int, int] | None = None, first_row: int = 0,
    tasks: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """out (M, N) = max(W x + b, 0).

    Args:
        weight: (M, K), rows contiguous; with `inner` the first M / 2 outputs are network 0, the others network 1.
        bias: (M,) fp32.
        x: (rows, N).
        inner: how many inputs each of two networks reads; None for one network of K inputs.
        first_row: where network 1's inputs start in x.
        tasks: (images,) int32, which of weights (T, M, K) and biases (T, M) each image takes; N / images tokens each.
    """
    op = Hidden(weight, bias, x, out, inner or (weight.shape[-1],), first_row, tasks)
    perform("relu_product", _HIDDEN, op, x)
    return out


def relu_gradient_product(weight: Tensor, dy: Tensor, hidden: Tensor, out: Tensor, networks: int, sums: Tensor) -> int:
    """out (M, N) = (W^T dy) where `hidden` is positive, else 0; and partial sums over its tokens, the bias gradient.

    Args:
        weight: (networks * C, M / networks): the layer after the hidden one, network 1 below network 0.
        dy: (networks * C, N), its output gradient.
        hidden: (M, N), after the ReLU.
        sums: (`sum_tiles`, M) fp32, columns contiguous.

    Returns:
        How many rows of `sums` were written: those add up to the sums.
    """
    op = HiddenGradient(weight, dy, hidden, out, networks, sums)
    return perform("relu_gradient_product", _HIDDEN_GRADIENT, op, dy)
