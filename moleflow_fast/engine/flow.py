"""The whole flow of a task, base blocks and task flow, as one operator with a backward; the plan names the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from moleflow_fast.engine import cpu
from moleflow_fast.engine.plan import Plan, parse
from moleflow_fast.engine.slots import split


class Engine(Protocol):
    """What computes a packed flow: the modules `cpu` and `channel_major`."""

    def forward(
        self, plan: Plan, packed: Sequence[Tensor], x: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """z (B, H, W, D), logdet (B, H, W) and, with `keep`, what backward needs, of x (B, H, W, D)."""

    def backward(
        self, plan: Plan, packed: Sequence[Tensor], params: Sequence[Tensor], saved: Sequence[Tensor], dz: Tensor,
        dlogdet: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Gradient of x (B, H, W, D), and those of `params`: one each, or all in one flat tensor (`slots.split`)."""

    def saved_like(self, plan: Plan, x: Tensor) -> list[Tensor]:
        """Uninitialised tensors of the shapes, strides and dtypes that `forward` keeps of x (B, H, W, D)."""


def _engine(plan: Plan) -> Engine:
    if plan.engine == "cpu":
        return cpu
    from moleflow_fast.engine import channel_major  # it needs Triton, which a CPU does not

    return channel_major


@torch.library.custom_op("moleflow::flow", mutates_args=())
def flow(
    x: Tensor, packed: Sequence[Tensor], params: Sequence[Tensor], plan: str, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """z (B, H, W, D) and logdet (B, H, W) without the constant of the global scales, of x (B, H, W, D).

    Args:
        packed: what the kernels read, see `packing`.
        params: the tensors that get gradients, in the order of the plan's slots.
        plan: the structure, see `plan`.
        keep: keep what backward needs, in the third result.
    """
    structure = parse(plan)
    return _engine(structure).forward(structure, packed, x, keep)


@flow.register_fake
def _(
    x: Tensor, packed: Sequence[Tensor], params: Sequence[Tensor], plan: str, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    structure = parse(plan)
    saved = _engine(structure).saved_like(structure, x) if keep else []
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.shape[:-1]), saved


@torch.library.custom_op("moleflow::flow_backward", mutates_args=())
def flow_backward(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> list[Tensor]:
    """Gradients of `flow` on a CPU: of x (B, H, W, D), then of each of `params`."""
    dx, gradients = cpu.backward(parse(plan), packed, params, saved, dz, dlogdet)
    return [dx, *gradients]


@flow_backward.register_fake
def _(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> list[Tensor]:
    dx = torch.empty_like(dz, memory_format=torch.contiguous_format)
    return [dx, *[p.new_empty(p.shape) for p in params]]


@torch.library.custom_op("moleflow::flow_backward_on_device", mutates_args=("saved",))
def flow_backward_on_device(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> tuple[Tensor, Tensor]:
    """Gradients of `flow` in channel-major kernels: of x (B, H, W, D), and of all `params` in one flat tensor.

    It overwrites what `flow` saved, so a graph can be gone back through once.
    """
    structure = parse(plan)
    dx, (flat,) = _engine(structure).backward(structure, packed, params, saved, dz, dlogdet)
    return dx, flat


@flow_backward_on_device.register_fake
def _(
    dz: Tensor, dlogdet: Tensor, saved: Sequence[Tensor], packed: Sequence[Tensor], params: Sequence[Tensor], plan: str
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dz, memory_format=torch.contiguous_format), dz.new_empty(sum(p.numel() for p in params))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    _, packed, params, plan, keep = inputs
    if not keep:
        raise RuntimeError("moleflow::flow was run without keep=True, but a gradient is wanted")
    ctx.set_materialize_grads(False)
    ctx.plan, ctx.packed_count = plan, len(packed)
    ctx.save_for_backward(*packed, *params, *output[2])
    ctx.params_count = len(params)
    ctx.shape = output[0].shape


def _backward(ctx: Any, dz: Tensor | None, dlogdet: Tensor | None, dsaved: Any) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    packed, rest = tensors[: ctx.packed_count], tensors[ctx.packed_count :]
    params, saved = rest[: ctx.params_count], rest[ctx.params_count :]
    if dz is None and dlogdet is None:
        return None, [None] * len(packed), [None] * len(params), None, None
    given = dz if dz is not None else dlogdet
    dz = given.new_zeros(ctx.shape) if dz is None else dz  # type: ignore[union-attr]
    dlogdet = given.new_zeros(ctx.shape[:-1]) if dlogdet is None else dlogdet  # type: ignore[union-attr]
    if parse(ctx.plan).engine == "cpu":
        dx, *gradients = flow_backward(dz, dlogdet, saved, packed, params, ctx.plan)
    else:
        dx, flat = flow_backward_on_device(dz, dlogdet, saved, packed, params, ctx.plan)
        gradients = split(parse(ctx.plan), flat, params)
    return dx, [None] * len(packed), list(gradients), None, None


flow.register_autograd(_backward, setup_context=_setup_context)
