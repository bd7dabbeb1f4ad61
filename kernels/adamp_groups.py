"""What one step of AdamP takes, in compiled code and in Triton kernels alike; it needs no Triton itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class AdamPSettings(NamedTuple):
    """What a parameter group shares, in the order that the compiled part reads."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    delta: float
    wd_ratio: float
    nesterov: bool


class AdamPTensor(NamedTuple):
    """A parameter, its gradient and moments, all of one shape; `step` is the number of this step, from 1."""

    parameter: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int


Group = tuple[AdamPSettings, Sequence[AdamPTensor]]
