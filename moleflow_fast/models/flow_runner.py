"""What a model asks to run its flow, and the definition of that in plain PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from moleflow_fast.models.expert import Expert, FlowModules
from moleflow_fast.ops.density import density_loss, patch_nll


class FlowRunner(Protocol):
    """Runs the flows of experts, as `PlainFlowRunner` defines it; several threads may share one."""

    def forward(self, flow: FlowModules, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, H, W, D) and log|det| (B, H, W) of conditioned x (B, H, W, D), whichever task is active.

        Differentiable in x and in every parameter that trains.
        """

    def loss(
        self, flow: FlowModules, x: Tensor, *, tail_weight: float | None, tail_top_k_ratio: float, lambda_logdet: float
    ) -> Tensor:
        """`ops.density.density_loss` (), of what `forward` gives."""

    def batched_nll(
        self, experts: Sequence[Expert], chosen: Tensor, x: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """-log p (B, H, W) without gradients, image b of patches x (B, H, W, D) under experts[chosen[b]].

        Only where `why_not_batched` is None: elsewhere images of one expert go through `forward` together.

        Args:
            chosen: (B,) int32.
            positions: (H, W, D), None where x already has them.
        """

    def batched_experts_read(self, experts: Sequence[Expert], x: Tensor) -> list[object] | None:
        """What `batched_nll` reads, as objects: others once a parameter behind them has changed.

        None where it needs the host to know the experts, and while any of those parameters trains.
        """

    def weights_fixed(self) -> AbstractContextManager[None]:
        """In the block no parameter changes, so weights may be merged once and not at every call."""

    def why_not_compiled(self, flow: FlowModules, x: Tensor) -> str | None:
        """Why `forward` runs plain PyTorch on x, or None."""

    def why_not_batched(self, experts: Sequence[Expert], x: Tensor) -> str | None:
        """Why `batched_nll` is not one pass over x without the host knowing the experts, or None."""


class PlainFlowRunner:
    """Runs the modules themselves."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.RLock()  # modules act for one task at a time

    def __deepcopy__(self, memo: dict) -> PlainFlowRunner:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def forward(self, flow: FlowModules, x: Tensor) -> tuple[Tensor, Tensor]:
        with self._active(flow):
            return flow.forward(x)

    def loss(
        self, flow: FlowModules, x: Tensor, *, tail_weight: float | None, tail_top_k_ratio: float, lambda_logdet: float
    ) -> Tensor:
        return density_loss(
            *self.forward(flow, x),
            tail_weight=tail_weight,
            tail_top_k_ratio=tail_top_k_ratio,
            lambda_logdet=lambda_logdet,
        )

    @torch.no_grad()
    def batched_nll(
        self, experts: Sequence[Expert], chosen: Tensor, x: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        x = x if positions is None else x + positions
        nll = x.new_empty(x.shape[:-1])
        for image, place in enumerate(chosen.tolist()):
            expert = experts[place]
            nll[image] = patch_nll(*self.forward(expert.flow, expert.condition(x[image : image + 1])))[0]
        return nll

    def batched_experts_read(self, experts: Sequence[Expert], x: Tensor) -> list[object] | None:
        return None

    def weights_fixed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def why_not_compiled(self, flow: FlowModules, x: Tensor) -> str | None:
        return "the model was given a runner of plain PyTorch"

    def why_not_batched(self, experts: Sequence[Expert], x: Tensor) -> str | None:
        return "plain PyTorch takes one image after another"

    @contextmanager
    def _active(self, flow: FlowModules) -> Iterator[None]:
        """In the block the base flow acts for the task of `flow`, and for no other thread's."""
        subnets: list[Any] = [block.subnet for block in flow.base.module_list]
        with self._one_at_a_time:
            before = [subnet.active_task for subnet in subnets]
            for subnet in subnets:
                subnet.set_active_task(flow.task_id)
            try:
                yield
            finally:
                for subnet, task_id in zip(subnets, before, strict=True):
                    subnet.set_active_task(task_id)
