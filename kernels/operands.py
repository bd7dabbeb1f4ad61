"""What the flow's products are given, however they are done."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Shape(NamedTuple):
    """Of products of one or two networks: outputs of each, inputs of all together, tokens."""

    networks: int
    outputs: int
    inner: int
    tokens: int

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.outputs * self.inner * self.tokens


class Hidden(NamedTuple):
    """A hidden layer: weight (M, K), bias (M,), x (rows, N), out (M, N), as `products.relu_product` takes them."""

    weight: Tensor
    bias: Tensor
    x: Tensor
    out: Tensor
    inner: tuple[int, ...]  # inputs of each network
    first_row: int  # of network 1's inputs
    tasks: Tensor | None

    @property
    def shape(self) -> Shape:
        networks = len(self.inner)
        return Shape(networks, self.out.shape[0] // networks, sum(self.inner), self.x.shape[1])

    def parts(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Weight (M, K), input (K, N) and output (M, N) of each network."""
        weights, outs = self.weight.chunk(len(self.inner)), self.out.chunk(len(self.inner))
        firsts = (0, self.first_row)
        return [
            (weight[:, :k], self.x[first : first + k], out)
            for weight, out, k, first in zip(weights, outs, self.inner, firsts, strict=False)
        ]


class HiddenGradient(NamedTuple):
    """The gradient of a hidden layer's input to its ReLU, as `products.relu_gradient_product` takes it."""

    weight: Tensor  # (networks * C, units)
    dy: Tensor  # (networks * C, N)
    hidden: Tensor  # (networks * units, N)
    out: Tensor
    networks: int
    sums: Tensor  # (tiles, networks * units)
    tasks: None = None  # only inference mixes tasks

    @property
    def shape(self) -> Shape:
        return Shape(self.networks, self.weight.shape[1], self.dy.shape[0], self.dy.shape[1])


class Coupling(NamedTuple):
    """The last layers and the coupling of the driven rows, as `coupling.coupling_product` takes them."""

    weight: Tensor  # (2 C, K)
    bias: Tensor
    hidden: tuple[Tensor, Tensor]  # (K, N) each
    state: Tensor  # (D, N)
    rows: Tensor  # (C,)
    pending: Tensor
    affine: Tensor
    logdet: Tensor  # (tiles, N)
    clamping: tuple[float, float, float]
    kept: tuple[Tensor, Tensor] | None  # (C, N) each
    tasks: Tensor | None

    @property
    def shape(self) -> Shape:
        return Shape(2, self.rows.shape[0], 2 * self.weight.shape[-1], self.state.shape[1])

    def epilogue(self) -> tuple[object, ...]:
        """The arguments of `epilogues.couple`, from the bias to the factors."""
        s, x2 = self.kept or (self.state, self.state)
        channels, tokens = self.rows.shape[0], self.state.shape[1]
        return (
            self.bias, self.state, self.state.stride(0), self.rows, self.pending, self.affine, s, s.stride(0),
            x2, x2.stride(0), self.logdet, self.logdet.stride(0), channels, tokens, *self.clamping,
        )  # fmt: skip


def images_of(tasks: Tensor | None, tokens: int) -> tuple[int, int]:
    """Tokens that share their weights, and how many such groups there are."""
    return (tokens, 1) if tasks is None else (tokens // len(tasks), len(tasks))
