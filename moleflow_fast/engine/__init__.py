"""The compiled engine: a task's whole flow as one operator (see `flow`), its weights packed by `packing`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from moleflow_fast.backend import flow_backend, product_operands, runs_compiled, why_not_compiled
from moleflow_fast.engine.flow import flow
from moleflow_fast.engine.packing import PackCache, Packed, Parts, obstacle, trained

__all__ = ["FlowEngine", "Packed", "Parts"]


class FlowEngine:
    """Runs flows packed; keeps the packed weights of frozen tasks. Several threads may use one engine at once."""

    def __init__(self) -> None:
        self._packs = PackCache()
        self._mixed: tuple[list[Packed], list[Tensor]] = ([], [])
        self.one_at_a_time = threading.RLock()
        """For whoever must switch the active task of the modules themselves."""

    def __deepcopy__(self, memo: dict) -> FlowEngine:
        return FlowEngine()

    def __reduce__(self) -> tuple:
        return FlowEngine, ()

    def takes(self, parts: Parts, x: Tensor) -> bool:
        """Whether a compiled backend runs these parts on x.

        Raises:
            BackendError: one was asked for and cannot.
        """
        return runs_compiled(x, why_not=_obstacle(parts, x), backend=flow_backend())

    def why_not(self, parts: Parts, x: Tensor) -> str | None:
        """Why no compiled backend runs these parts on x, or None."""
        return why_not_compiled(x, why_not=_obstacle(parts, x), backend=flow_backend())

    def run(self, parts: Parts, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, H, W, D) and log|det| (B, H, W) of x (B, H, W, D), differentiable in x and every trained parameter."""
        packed = self.packed(parts)
        if not torch.is_grad_enabled():
            z, logdet, _ = flow(x, packed.tensors, [], packed.plan.to_string(), False)
            return z, logdet + packed.log_scales
        packed, params = trained(parts, packed)
        wanted = x.requires_grad or bool(params)
        z, logdet, _ = flow(x, packed.tensors, params, packed.plan.to_string(), wanted)
        return z, logdet + sum_of_log_scales(parts)

    def run_mixed(self, parts: Sequence[Parts], x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """`run` without gradients, image b of x (B, H, W, D) under parts[chosen[b]]; chosen (B,) int32.

        All parts must have one base flow, and Triton kernels must take them.
        """
        from moleflow_fast.engine import channel_major  # it needs Triton, which a CPU does not

        packs, stack = self.stacked(parts)
        z, logdet, _ = channel_major.forward(packs[0].plan, stack, x, keep=False, tasks=chosen)
        return z, logdet + packs[0].log_scales

    def stacked(self, parts: Sequence[Parts]) -> tuple[list[Packed], list[Tensor]]:
        """The packed forms of these parts, and all as one: the same objects as long as nothing behind has changed."""
        from moleflow_fast.engine import channel_packing

        packs, known = [self.packed(p) for p in parts], self._mixed
        if len(known[0]) != len(packs) or any(a is not b for a, b in zip(known[0], packs, strict=True)):
            known = self._mixed = (packs, channel_packing.stack(packs[0].plan, [p.tensors for p in packs]))
        return known

    def packed(self, parts: Parts) -> Packed:
        """The packed form of these parts: the same object as long as nothing behind it has changed."""
        return self._packs.get(parts, product_operands() if flow_backend() == "triton" else None)

    def hold(self) -> AbstractContextManager[None]:
        """In the block no parameter changes, so weights that train are packed once and not at every call."""
        return self._packs.hold()

    def forget(self, task_id: int | None) -> None:
        """Drop what is kept of a task: its parameters may be about to change."""
        self._packs.forget(task_id)


def _obstacle(parts: Parts, x: Tensor) -> str | None:
    reason = obstacle(parts)
    if reason is None and any(t.is_floating_point() and t.dtype != x.dtype for t in parts.tensors()):
        return f"its parameters are not {x.dtype}, as the features are"
    return reason


def sum_of_log_scales(parts: Parts) -> Tensor | float:
    """Sum over base blocks of log(global scale): the part of the log-determinant that no token changes."""
    return sum((block.scale().log().sum() for block in parts.base.module_list), 0.0)  # type: ignore[operator]
