"""A linear layer with a frozen shared part and a low-rank part per task (paper, LoRA experts)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm


class LoRALinear(nn.Module):
    """y = x W^T + (alpha / r) (x A_t^T) B_t^T + b + b_t for the active task t.

    Without an active task, or where t has no adapter here, y = x W^T + b.

    Parameters: `base_linear.{weight,bias}`; per task, keyed by `str(task_id)`: `lora_A` (r, in) Xavier
    uniform, `lora_B` (out, r) zero, `task_biases` (out,) zero: a new task starts exactly at the base.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 4,
        alpha: float = 1.0,
        bias: bool = True,
        use_lora: bool = True,
        use_task_bias: bool = True,
        use_spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        if use_lora and rank < 1:
            raise ValueError(f"the LoRA rank must be at least 1, got {rank}")
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.scaling = alpha / rank
        self.use_lora = use_lora
        self.use_task_bias = use_task_bias
        self.base_linear = nn.Linear(in_features, out_features, bias=bias)
        if use_spectral_norm:
            spectral_norm(self.base_linear)
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.task_biases = nn.ParameterDict()
        self.active_task: int | None = None
        self._base_frozen = False

    def add_task_adapter(self, task_id: int) -> None:
        """Create the adapter of a task; a task that has one keeps it."""
        key = str(task_id)
        like = next(self.base_linear.parameters())
        if self.use_lora and key not in self.lora_A:
            self.lora_A[key] = nn.Parameter(nn.init.xavier_uniform_(like.new_empty(self.rank, self.in_features)))
            self.lora_B[key] = nn.Parameter(like.new_zeros(self.out_features, self.rank))
        if self.use_task_bias and key not in self.task_biases:
            self.task_biases[key] = nn.Parameter(like.new_zeros(self.out_features))

    def freeze_base(self) -> None:
        self._set_base_frozen(True)

    def unfreeze_base(self) -> None:
        self._set_base_frozen(False)

    def set_active_task(self, task_id: int | None) -> None:
        self.active_task = task_id

    def get_merged_weight(self, task_id: int | None) -> Tensor:
        """W + (alpha / r) B_t A_t, (out, in)."""
        weight = self._base_weight()
        key = str(task_id)
        if key not in self.lora_A:
            return weight
        return weight + self.scaling * (self.lora_B[key] @ self.lora_A[key])

    def merged_bias(self, task_id: int | None) -> Tensor:
        """b + b_t, (out,)."""
        bias = self.base_linear.bias
        if bias is None:
            bias = self.base_linear.weight.new_zeros(self.out_features)
        key = str(task_id)
        return bias + self.task_biases[key] if key in self.task_biases else bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        y = self.base_linear(x)
        key = str(self.active_task)
        if key in self.lora_A:
            y = y + self.scaling * F.linear(F.linear(x, self.lora_A[key]), self.lora_B[key])
        if key in self.task_biases:
            y = y + self.task_biases[key]
        return y

    def train(self, mode: bool = True) -> LoRALinear:
        super().train(mode)
        # A frozen base never runs spectral norm's power iteration again: it would change old tasks' outputs.
        self.base_linear.train(mode and not self._base_frozen)
        return self

    def _set_base_frozen(self, frozen: bool) -> None:
        self._base_frozen = frozen
        self.base_linear.requires_grad_(not frozen)
        self.base_linear.train(self.training and not frozen)

    def _base_weight(self) -> Tensor:
        for hook in self.base_linear._forward_pre_hooks.values():
            hook(self.base_linear, (torch.empty(0),))  # spectral norm refreshes `weight` here
        return self.base_linear.weight
