"""Runs a model's flow packed, by the compiled engine; what that cannot take runs as it is defined, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from moleflow_fast.backend import flow_backend, runs_compiled, why_not_compiled
from moleflow_fast.engine.flow import flow as flow_operator
from moleflow_fast.models.expert import Expert, FlowModules
from moleflow_fast.models.flow_runner import PlainFlowRunner
from moleflow_fast.ops.density import tail_size
from moleflow_fast.packing.cache import PackCache
from moleflow_fast.packing.conditioning import (
    ConditionCache,
    Conditions,
    adapters_of,
    tensors_around,
    why_not_alike,
)
from moleflow_fast.packing.packer import Packed, obstacle, trained
from moleflow_fast.packing.seen import sum_of_log_scales, tensors_of
from moleflow_fast.packing.stack import Stack, StackCache
from moleflow_fast.packing.target import target_on


class CompiledFlowRunner(PlainFlowRunner):
    """The runner of models by default; keeps the packed weights of frozen tasks."""

    def __init__(self) -> None:
        super().__init__()
        self._packs = PackCache()
        self._stacks = StackCache(self._packs)
        self._conditions = ConditionCache()

    def forward(self, flow: FlowModules, x: Tensor) -> tuple[Tensor, Tensor]:
        """As it is defined.

        Raises:
            BackendError: a compiled backend was asked for by name, and cannot run this.
        """
        if not runs_compiled(x, why_not=self._obstacle(flow, x), backend=flow_backend(x.device)):
            self._packs.forget()  # parameters may be about to change
            return super().forward(flow, x)
        packed = self.packed(flow)
        if not torch.is_grad_enabled():
            z, logdet, _ = flow_operator(x, packed.tensors, [], packed.plan.text, False)
            return z, logdet + packed.log_scales
        packed, params = trained(flow, packed)
        wanted = x.requires_grad or bool(params)
        z, logdet, _ = flow_operator(x, packed.tensors, params, packed.plan.text, wanted)
        return z, logdet + _log_scales(flow, packed)

    def loss(
        self, flow: FlowModules, x: Tensor, *, tail_weight: float | None, tail_top_k_ratio: float, lambda_logdet: float
    ) -> Tensor:
        """As it is defined; on Triton kernels without z ever being written."""
        fused = flow_backend(x.device) == "triton" and x.numel() > 0 and torch.is_grad_enabled()
        if not fused or self.why_not_compiled(flow, x) is not None:
            return super().loss(
                flow, x, tail_weight=tail_weight, tail_top_k_ratio=tail_top_k_ratio, lambda_logdet=lambda_logdet
            )
        from moleflow_fast.engine.density import flow_loss  # it needs Triton, which a CPU does not

        tail = 0 if tail_weight is None else tail_size(x.shape[1] * x.shape[2], tail_top_k_ratio)
        packed, params = trained(flow, self.packed(flow))
        log_scales = _log_scales(flow, packed)
        return flow_loss(
            x, packed.tensors, params, log_scales, packed.plan.text, tail, tail_weight or 0.0, lambda_logdet
        )[0]

    def packed(self, flow: FlowModules) -> Packed:
        """The packed form of a flow: the same object as long as nothing behind it has changed."""
        return self._packs.get(flow, target_on(next(tensors_of(flow)).device))

    def weights_fixed(self) -> AbstractContextManager[None]:
        return self._packs.hold()

    def why_not_compiled(self, flow: FlowModules, x: Tensor) -> str | None:
        return why_not_compiled(x, why_not=self._obstacle(flow, x), backend=flow_backend(x.device))

    def _obstacle(self, flow: FlowModules, x: Tensor) -> str | None:
        seen = self._packs.seen(flow)
        if seen is None and (reason := obstacle(flow)) is not None:
            return reason
        dtypes = {t.dtype for t in tensors_of(flow) if t.is_floating_point()} if seen is None else seen.dtypes
        return None if dtypes <= {x.dtype} else f"its parameters are not {x.dtype}, as the features are"

    @torch.no_grad()
    def batched_nll(
        self, experts: Sequence[Expert], chosen: Tensor, x: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        from moleflow_fast.engine.density import nll  # it needs Triton, which a CPU does not

        x = self._conditions_of(experts).apply(x, chosen, positions)
        stack = self._stacks.get([expert.flow for expert in experts])
        return nll(stack.packs[0].plan, stack.tensors, stack.packs[0].log_scales, x, chosen)

    def batched_experts_read(self, experts: Sequence[Expert], x: Tensor) -> list[object] | None:
        """As it is defined. It is asked for at every batch: what has not changed is compared once."""
        if self._why_not_alike(experts, x) is not None:
            return None
        stack, around = self._stack_read([expert.flow for expert in experts], x), list(tensors_around(experts))
        if stack is None or any(t.requires_grad for t in around):
            return None
        return [*stack.packs, stack.tensors, self._conditions_of(experts), *around]

    def _stack_read(self, flows: Sequence[FlowModules], x: Tensor) -> Stack | None:
        known = self._stacks.known(flows)
        if known is not None:
            return known if known.dtypes == {x.dtype} and why_not_compiled(x, backend="triton") is None else None
        if self._why_not_stacked(flows, x) is not None or any(t.requires_grad for f in flows for t in tensors_of(f)):
            return None
        return self._stacks.get(flows)

    def why_not_batched(self, experts: Sequence[Expert], x: Tensor) -> str | None:
        return self._why_not_alike(experts, x) or self._why_not_stacked([expert.flow for expert in experts], x)

    @staticmethod
    def _why_not_alike(experts: Sequence[Expert], x: Tensor) -> str | None:
        if flow_backend(x.device) != "triton":
            return "only Triton kernels choose weights by image"
        if len({expert.flow.base for expert in experts}) > 1:
            return "its tasks have flows of their own"
        return why_not_alike(adapters_of(experts))

    def _why_not_stacked(self, flows: Sequence[FlowModules], x: Tensor) -> str | None:
        """Why Triton kernels cannot run all of these flows on x, or None."""
        known = self._stacks.known(flows)
        if known is not None and known.dtypes == {x.dtype}:
            return why_not_compiled(x, backend="triton")
        return next((why for flow in flows if (why := self.why_not_compiled(flow, x))), None)

    def _conditions_of(self, experts: Sequence[Expert]) -> Conditions:
        return self._conditions.of(adapters_of(experts), experts[0].mixer)


def _log_scales(flow: FlowModules, packed: Packed) -> Tensor:
    """The sum of the logarithms of global scales, differentiable where they train."""
    trains = any(block.global_scale.requires_grad for block in flow.base.module_list)
    return sum_of_log_scales(flow) if trains else packed.log_scales
