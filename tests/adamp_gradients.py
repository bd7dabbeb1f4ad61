"""Gradients that fire one of AdamP's two tests for a projection."""

import torch
from torch import Tensor


def rows_orthogonal(p: Tensor, g: Tensor) -> Tensor:
    """g without its component along each row of p: fires the channel test."""
    g, rows = g.flatten(1), p.flatten(1)
    return (g - rows * ((g * rows).sum(1, keepdim=True) / (rows * rows).sum(1, keepdim=True))).view_as(p)


def layer_orthogonal(p: Tensor) -> Tensor:
    """Along every row, but orthogonal to the whole: fires only the layer test."""
    squares = p.flatten(1).square().sum(1)
    factors = torch.ones_like(squares)
    factors[-1] = -squares[:-1].sum() / squares[-1]
    return p * factors.view(-1, *[1] * (p.dim() - 1))
