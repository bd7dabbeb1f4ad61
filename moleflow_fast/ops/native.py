"""Calls into the compiled part: functions on raw pointers, one per floating type."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moleflow_fast._compiled import compiled

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


def call(name: str, dtype: torch.dtype, *args: Any) -> Any:
    """Run compiled function `name` for `dtype`.

    Tensors among `args` are passed as addresses (None as 0), so their layout must be what the function expects;
    anything else is passed as it is.
    """
    function = getattr(compiled, f"{name}_{_SUFFIX[dtype]}")
    return function(*[_address(a) if a is None or isinstance(a, Tensor) else a for a in args])


def threads() -> int:
    """How many threads the compiled part may use: as many as torch."""
    return torch.get_num_threads()


def forward_only(*tensors: Tensor) -> str | None:
    """What speaks against an operation without a gradient: one is wanted. None if none is."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "a gradient is wanted, and it has none"
    return None


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
