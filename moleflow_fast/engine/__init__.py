"""The compiled engine: a task's whole flow as one operator (see `flow`), its weights packed by `packing`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from moleflow_fast.backend import flow_backend, product_operands, runs_compiled, why_not_compiled
from moleflow_fast.engine.flow import flow
from moleflow_fast.engine.packing import PackCache, Packed, obstacle, trained
from moleflow_fast.engine.parts import Parts, Seen

__all__ = ["FlowEngine", "Packed", "Parts"]


@dataclass(frozen=True)
class _Stack:
    """Packed parts, all as one, with what they were made from."""

    parts: tuple[Parts, ...]
    products: tuple[str | None, bool]
    seen: Seen
    forgotten: int
    packs: list[Packed]
    stack: list[Tensor]


class FlowEngine:
    """Runs flows packed; keeps the packed weights of frozen tasks. Several threads may use one engine at once."""

    def __init__(self) -> None:
        self._packs = PackCache()
        self._stack: _Stack | None = None
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
        return runs_compiled(x, why_not=self._obstacle(parts, x), backend=flow_backend(x.device))

    def why_not(self, parts: Parts, x: Tensor) -> str | None:
        """Why no compiled backend runs these parts on x, or None."""
        return why_not_compiled(x, why_not=self._obstacle(parts, x), backend=flow_backend(x.device))

    def why_not_mixed(self, parts: Sequence[Parts], x: Tensor) -> str | None:
        """Why Triton kernels cannot run all of these parts on x, or None."""
        known = self._known_stack(parts)
        if known is not None and known.seen.dtypes == {x.dtype}:
            return why_not_compiled(x, backend="triton")
        return next((why for p in parts if (why := self.why_not(p, x))), None)

    def kept_stack(self, parts: Sequence[Parts], x: Tensor) -> list[object] | None:
        """What `nll_mixed` reads, other objects once anything behind it has changed; None where x or training forbids.

        It is asked for at every batch: what has not changed is compared once.
        """
        known = self._known_stack(parts)
        if known is None:
            if self.why_not_mixed(parts, x) is not None or any(t.requires_grad for p in parts for t in p.tensors()):
                return None
            self.stacked(parts)
            known = self._stack
            assert known is not None
        elif known.seen.dtypes != {x.dtype} or why_not_compiled(x, backend="triton") is not None:
            return None
        return [*known.packs, known.stack]

    def run(self, parts: Parts, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, H, W, D) and log|det| (B, H, W) of x (B, H, W, D), differentiable in x and every trained parameter."""
        packed = self.packed(parts)
        if not torch.is_grad_enabled():
            z, logdet, _ = flow(x, packed.tensors, [], packed.plan.text, False)
            return z, logdet + packed.log_scales
        packed, params = trained(parts, packed)
        wanted = x.requires_grad or bool(params)
        z, logdet, _ = flow(x, packed.tensors, params, packed.plan.text, wanted)
        return z, logdet + (parts.sum_of_log_scales() if _scales_train(parts) else packed.log_scales)

    def loss(self, parts: Parts, x: Tensor, tail: int, tail_weight: float, lambda_logdet: float) -> Tensor:
        """The training loss () of x (B, H, W, D) by Triton kernels, as `ops.density` defines it of what `run` gives.

        Args:
            tail: patches of each image's tail, 0 for the plain loss.
        """
        from moleflow_fast.engine.density import flow_loss  # it needs Triton, which a CPU does not

        packed, params = trained(parts, self.packed(parts))
        log_scales = parts.sum_of_log_scales() if _scales_train(parts) else packed.log_scales
        return flow_loss(x, packed.tensors, params, log_scales, packed.plan.text, tail, tail_weight, lambda_logdet)[0]

    def nll_mixed(self, parts: Sequence[Parts], x: Tensor, chosen: Tensor) -> Tensor:
        """-log p (B, H, W) of what `run` gives, image b of x (B, H, W, D) under parts[chosen[b]]; chosen (B,) int32.

        All parts must have one base flow, and Triton kernels must take them.
        """
        from moleflow_fast.engine.density import nll  # it needs Triton, which a CPU does not

        packs, stack = self.stacked(parts)
        return nll(packs[0].plan, stack, packs[0].log_scales, x, chosen)

    def stacked(self, parts: Sequence[Parts]) -> tuple[list[Packed], list[Tensor]]:
        """The packed forms of these parts, and all as one: the same objects as long as nothing behind has changed."""
        from moleflow_fast.engine import channel_packing

        known = self._known_stack(parts)
        if known is None:
            seen, forgotten = Seen(parts), self._packs.forgotten
            packs = [self.packed(p) for p in parts]
            stack = channel_packing.stack(packs[0].plan, [p.tensors for p in packs])
            known = self._stack = _Stack(tuple(parts), _products(parts[0]), seen, forgotten, packs, stack)
        return known.packs, known.stack

    def _known_stack(self, parts: Sequence[Parts]) -> _Stack | None:
        known = self._stack
        if known is None or known.parts != tuple(parts) or known.products != _products(parts[0]):
            return None
        return known if known.forgotten == self._packs.forgotten and known.seen.still() else None

    def _obstacle(self, parts: Parts, x: Tensor) -> str | None:
        seen = self._packs.seen(parts)
        if seen is None and (reason := obstacle(parts)) is not None:
            return reason
        dtypes = {t.dtype for t in parts.tensors() if t.is_floating_point()} if seen is None else seen.dtypes
        return None if dtypes <= {x.dtype} else f"its parameters are not {x.dtype}, as the features are"

    def packed(self, parts: Parts) -> Packed:
        """The packed form of these parts: the same object as long as nothing behind it has changed."""
        return self._packs.get(parts, _products(parts)[0])

    def hold(self) -> AbstractContextManager[None]:
        """In the block no parameter changes, so weights that train are packed once and not at every call."""
        return self._packs.hold()

    def forget(self) -> None:
        """Drop what is kept: parameters may be about to change."""
        self._packs.forget()


def _products(parts: Parts) -> tuple[str | None, bool]:
    """Operands as in `Plan`, and whether products of fp32 ones may run in tf32."""
    triton = flow_backend(next(parts.tensors()).device) == "triton"
    operands = product_operands() if triton else None
    return operands, torch.backends.cuda.matmul.allow_tf32


def _scales_train(parts: Parts) -> bool:
    return any(block.global_scale.requires_grad for block in parts.base.module_list)
