"""Which engine numbers are packed for, and in which precision."""

from __future__ import annotations

from typing import NamedTuple

import torch

from moleflow_fast.backend import flow_backend, product_operands
from moleflow_fast.engine.plan import EngineName


class Target(NamedTuple):
    """`engine` and `operands` as in `Plan`; `tf32`: whether products of fp32 operands may run in tf32."""

    engine: EngineName = "cpu"
    operands: str = "fp32"
    tf32: bool = False


def target_on(device: torch.device) -> Target:
    """What runs flows on a device now."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    if flow_backend(device) == "triton":
        return Target("channel_major", product_operands(), tf32)
    return Target("cpu", "fp32", tf32)
