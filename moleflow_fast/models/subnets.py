"""The networks that predict scale and shift inside a coupling block of the base flow."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moleflow_fast.models.lora_linear import LoRALinear


class MoLESubnet(nn.Module):
    """layer2(ReLU(layer1(x))): dims_in -> 2 * dims_in -> dims_out.

    Both layers are LoRALinear. With `use_regular_linear` they are plain linear layers and each task owns a
    full copy of them in `task_layers`, started from the base. With `use_spectral_norm` the base weights
    carry spectral normalisation.
    """

    def __init__(
        self,
        dims_in: int,
        dims_out: int,
        rank: int = 4,
        alpha: float = 1.0,
        use_lora: bool = True,
        use_task_bias: bool = True,
        use_regular_linear: bool = False,
        use_spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = 2 * dims_in
        self.use_regular_linear = use_regular_linear
        self.active_task: int | None = None
        self.layer1: nn.Module
        self.layer2: nn.Module
        if use_regular_linear:
            self.layer1 = nn.Linear(dims_in, hidden)
            self.layer2 = nn.Linear(hidden, dims_out)
            self.task_layers = nn.ModuleDict()
            return
        lora = {
            "rank": rank,
            "alpha": alpha,
            "use_lora": use_lora,
            "use_task_bias": use_task_bias,
            "use_spectral_norm": use_spectral_norm,
        }
        self.layer1 = LoRALinear(dims_in, hidden, **lora)  # type: ignore[arg-type]
        self.layer2 = LoRALinear(hidden, dims_out, **lora)  # type: ignore[arg-type]

    def add_task_adapter(self, task_id: int) -> None:
        if not self.use_regular_linear:
            _lora_layers_add(self, task_id)
            return
        if str(task_id) not in self.task_layers:
            own = nn.ModuleDict({"layer1": copy.deepcopy(self.layer1), "layer2": copy.deepcopy(self.layer2)})
            self.task_layers[str(task_id)] = own.requires_grad_(True)

    def set_active_task(self, task_id: int | None) -> None:
        self.active_task = task_id
        _lora_layers_activate(self, task_id)

    def begin_at_zero(self) -> None:
        """The coupling starts as the identity."""
        _zero(self.layer2)

    def layers_of(self, task_id: int | None) -> tuple[nn.Module, nn.Module]:
        """The two layers that act for a task."""
        if self.use_regular_linear and str(task_id) in self.task_layers:
            own = self.task_layers[str(task_id)]
            return own["layer1"], own["layer2"]  # type: ignore[index]
        return self.layer1, self.layer2

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dims_in) -> (..., dims_out)."""
        layer1, layer2 = self.layers_of(self.active_task)
        return layer2(F.relu(layer1(x)))


class MoLEContextSubnet(nn.Module):
    """[s, t] where the scale also sees its spatial neighbourhood:

    c = a * DWConv_k(x) on the H x W grid, a = context_max_alpha * sigmoid(`context_scale_param`),
    s = s_layer2(ReLU(s_layer1([x, c]))), t = t_layer2(ReLU(t_layer1(x))).
    """

    def __init__(
        self,
        dims_in: int,
        dims_out: int,
        rank: int = 4,
        alpha: float = 1.0,
        use_lora: bool = True,
        use_task_bias: bool = True,
        context_kernel: int = 3,
        context_init_scale: float = 0.1,
        context_max_alpha: float = 0.2,
    ) -> None:
        super().__init__()
        hidden = 2 * dims_in
        fraction = context_init_scale / context_max_alpha
        self.active_task: int | None = None
        self.context_max_alpha = context_max_alpha
        self.context_scale_param = nn.Parameter(torch.tensor([math.log(fraction / (1 - fraction))]))
        self.context_conv = nn.Conv2d(dims_in, dims_in, context_kernel, padding=context_kernel // 2, groups=dims_in)
        nn.init.zeros_(self.context_conv.weight)
        nn.init.zeros_(self.context_conv.bias)  # type: ignore[arg-type]
        lora = {"rank": rank, "alpha": alpha, "use_lora": use_lora, "use_task_bias": use_task_bias}
        self.s_layer1 = LoRALinear(2 * dims_in, hidden, **lora)  # type: ignore[arg-type]
        self.s_layer2 = LoRALinear(hidden, dims_out // 2, **lora)  # type: ignore[arg-type]
        self.t_layer1 = LoRALinear(dims_in, hidden, **lora)  # type: ignore[arg-type]
        self.t_layer2 = LoRALinear(hidden, dims_out // 2, **lora)  # type: ignore[arg-type]

    def add_task_adapter(self, task_id: int) -> None:
        _lora_layers_add(self, task_id)

    def set_active_task(self, task_id: int | None) -> None:
        self.active_task = task_id
        _lora_layers_activate(self, task_id)

    def begin_at_zero(self) -> None:
        """The coupling starts as the identity."""
        _zero(self.s_layer2)
        _zero(self.t_layer2)

    def context(self, x: Tensor) -> Tensor:
        """a * DWConv_k(x) for x (B, H, W, C)."""
        return self.context_strength() * self.context_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def context_taps(self) -> tuple[Tensor, Tensor]:
        """The convolution with its strength folded in: weights (k * k, dims_in) and bias (dims_in,)."""
        weights, biases = context_taps([self])
        return weights[0], biases[0]

    def context_parameters(self) -> list[nn.Parameter]:
        """What `context_taps` follows from."""
        return [self.context_scale_param, *self.context_conv.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, dims_in) -> (B, H, W, dims_out)."""
        scale_input = torch.cat([x, self.context(x)], dim=-1)
        s = self.s_layer2(F.relu(self.s_layer1(scale_input)))
        t = self.t_layer2(F.relu(self.t_layer1(x)))
        return torch.cat([s, t], dim=-1)

    def context_strength(self) -> Tensor:
        """a, (1,)."""
        return self.context_max_alpha * torch.sigmoid(self.context_scale_param)


def context_taps(subnets: Sequence[MoLEContextSubnet]) -> tuple[Tensor, Tensor]:
    """`MoLEContextSubnet.context_taps` of n subnets of one shape at once: (n, k * k, dims_in) and (n, dims_in)."""
    strength = subnets[0].context_max_alpha * torch.sigmoid(torch.cat([s.context_scale_param for s in subnets]))
    weights = torch.stack([s.context_conv.weight.flatten(1) for s in subnets])  # (n, dims_in, k * k)
    biases = torch.stack([s.context_conv.bias for s in subnets])  # type: ignore[misc]
    return (strength[:, None, None] * weights).transpose(1, 2).contiguous(), strength[:, None] * biases


def _zero(layer: nn.Module) -> None:
    base = layer.base_linear if isinstance(layer, LoRALinear) else layer
    nn.init.zeros_(base.weight)  # type: ignore[arg-type]
    nn.init.zeros_(base.bias)  # type: ignore[arg-type]


def _lora_layers_add(subnet: nn.Module, task_id: int) -> None:
    for layer in subnet.children():
        if isinstance(layer, LoRALinear):
            layer.add_task_adapter(task_id)


def _lora_layers_activate(subnet: nn.Module, task_id: int | None) -> None:
    for layer in subnet.children():
        if isinstance(layer, LoRALinear):
            layer.set_active_task(task_id)
