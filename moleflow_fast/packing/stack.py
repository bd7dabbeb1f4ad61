"""Packed flows of several tasks as one, for batches whose images are of different tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moleflow_fast.engine.channel_layout import stack
from moleflow_fast.models.expert import FlowModules
from moleflow_fast.packing.cache import PackCache
from moleflow_fast.packing.packer import Packed
from moleflow_fast.packing.seen import Seen, tensors_of
from moleflow_fast.packing.target import Target, target_on


@dataclass(frozen=True)
class Stack:
    """What `channel_layout.stack` makes of packed flows, and what they were made from."""

    flows: tuple[FlowModules, ...]
    target: Target
    seen: Seen
    forgotten: int
    packs: list[Packed]
    tensors: list[Tensor]

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """Of the parameters behind it."""
        return self.seen.dtypes


class StackCache:
    """The stack last asked for, which is another object only once something behind it has changed."""

    def __init__(self, packs: PackCache) -> None:
        self._packs = packs
        self._kept: Stack | None = None

    def get(self, flows: Sequence[FlowModules]) -> Stack:
        """The flows as one; all must have one base flow, and Triton kernels must take them."""
        kept = self.known(flows)
        if kept is None:
            seen, forgotten, target = Seen(flows), self._packs.forgotten, _target(flows)
            packs = [self._packs.get(flow, target) for flow in flows]
            tensors = stack(packs[0].plan, [packed.tensors for packed in packs])
            kept = self._kept = Stack(tuple(flows), target, seen, forgotten, packs, tensors)
        return kept

    def known(self, flows: Sequence[FlowModules]) -> Stack | None:
        """What `get` gave of these flows before, if it is right still."""
        kept = self._kept
        if kept is None or kept.flows != tuple(flows) or kept.target != _target(flows):
            return None
        return kept if kept.forgotten == self._packs.forgotten and kept.seen.unchanged() else None


def _target(flows: Sequence[FlowModules]) -> Target:
    return target_on(next(tensors_of(flows[0])).device)
