"""AdamP as a torch optimizer; the arithmetic is in `moleflow_fast.ops.adamp`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from moleflow_fast.kernels.adamp_groups import AdamPSettings, AdamPTensor, Group
from moleflow_fast.ops.adamp import adamp_step


class AdamP(torch.optim.Optimizer):
    """AdamP with the arguments, defaults and state (`step`, `exp_avg`, `exp_avg_sq`) of the package `adamp` 0.3.

    Args:
        delta: how nearly orthogonal to the parameter a gradient must be for the projection.
        wd_ratio: what weight decay is multiplied by where the projection applies.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                "lr, eps and weight_decay must be at least 0 and betas in [0, 1), got "
                f"lr={lr}, eps={eps}, weight_decay={weight_decay}, betas={betas}"
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "delta": delta,
            "wd_ratio": wd_ratio,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)

    @overload  # type: ignore[override]
    def step(self, closure: Callable[[], float] | None = None, *, max_norm: None = None) -> float | None: ...

    @overload
    def step(self, closure: Callable[[], float] | None = None, *, max_norm: float) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, max_norm: float | None = None) -> float | None:
        """Take one step with all parameters that have a gradient.

        Args:
            closure: computes the loss again and leaves gradients.
            max_norm: as `torch.nn.utils.clip_grad_norm_` over all of them, but the gradients are left unscaled.

        Returns:
            With `max_norm` the norm of the gradients before scaling; if it is not finite, no parameter, moment or step
            count was changed. Without it the closure's loss, if there is one.

        Raises:
            ValueError: max_norm is not above 0.
        """
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {max_norm}")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.with_state()
        norm = adamp_step(groups, max_norm)
        if norm is None or math.isfinite(norm):
            for _, tensors in groups:
                for tensor in tensors:
                    self.state[tensor.parameter]["step"] = tensor.step
        return loss if max_norm is None else norm

    def set_rate(self, rate: float) -> None:
        """Learning rate of the steps to come, for all parameters."""
        for group in self.param_groups:
            group["lr"] = rate

    def moments(self) -> dict[str, Tensor]:
        """Its whole state as tensors, by position of the parameter: "<i>.step", "<i>.exp_avg", "<i>.exp_avg_sq"."""
        return {
            f"{i}.{name}": torch.as_tensor(value)
            for i, parameter in enumerate(self._parameters())
            for name, value in self.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Take on what `moments` gave of an optimizer of the same parameters, on whatever device.

        Raises:
            ValueError: they do not fit; nothing was changed.
        """
        parameters = self._parameters()
        state: dict[int, dict[str, Any]] = {}
        for name, value in moments.items():
            position, _, kind = name.partition(".")
            like = parameters[int(position)] if int(position) < len(parameters) else None
            if like is None or value.shape != (() if kind == "step" else like.shape):
                raise ValueError(f"optimizer state {name} fits none of {len(parameters)} parameters")
            own = state.setdefault(int(position), {})
            own[kind] = int(value) if kind == "step" else value.to(like, copy=True).contiguous()
        if any(own.keys() != {"step", "exp_avg", "exp_avg_sq"} for own in state.values()):
            raise ValueError("optimizer state lacks moments")
        self.state.update({parameters[i]: own for i, own in state.items()})

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def with_state(self) -> list[Group]:
        """Every parameter that has a gradient, with its moments and the number of its next step."""
        return [self._with_state(group) for group in self.param_groups]

    def _with_state(self, group: dict[str, Any]) -> Group:
        beta1, beta2 = group["betas"]
        settings = AdamPSettings(
            float(group["lr"]),
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["delta"],
            group["wd_ratio"],
            group["nesterov"],
        )
        return settings, [self._tensor(p) for p in group["params"] if p.grad is not None]

    def _tensor(self, parameter: Tensor) -> AdamPTensor:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        assert parameter.grad is not None
        return AdamPTensor(parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"], int(state["step"]) + 1)
