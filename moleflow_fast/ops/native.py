"""What every call into the compiled part asks first."""

from __future__ import annotations

import torch
from torch import Tensor


def threads() -> int:
    """How many threads the compiled part may use: as many as torch."""
    return torch.get_num_threads()


def forward_only(*tensors: Tensor) -> str | None:
    """What speaks against an operation without a gradient: one is wanted. None if none is."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "a gradient is wanted, and it has none"
    return None
