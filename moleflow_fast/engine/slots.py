"""Where the gradient of each slot of a plan stands in one flat tensor of all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from torch import Tensor

from moleflow_fast.engine.plan import Plan


@cache
def offsets(slots: tuple[str, ...], sizes: tuple[int, ...]) -> dict[str, int]:
    """First element of each slot: weights that one product writes stand together."""
    found, at = {}, 0
    named = dict(zip(slots, sizes, strict=True))
    for slot in sorted(slots, key=_order):
        found[slot], at = at, at + named[slot]
    return found


def split(plan: Plan, flat: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of each of `params`, a view of `flat`."""
    at = offsets(plan.slots, tuple(p.numel() for p in params))
    return [flat[at[s] : at[s] + p.numel()].view(p.shape) for s, p in zip(plan.slots, params, strict=True)]


def _order(slot: str) -> tuple:
    part, index, *layer = slot.split(".")
    if layer[-1] != "weight":
        return 3, part, int(index), layer
    network, number = layer[0][0], layer[0][1]
    if part == "dia":
        return 2, int(index), number, network
    return int(number == "1"), int(index), network  # the last layers of all blocks, then the first ones
