"""Gradients of a ReLU network that rounding decides.

A unit whose sum is nearly 0 at some token passes that token's gradient on or drops it, whichever way the sum was
rounded. Both are right, and differ by the token's whole term: two right implementations agree to rounding in most
parameters, and in a few of them not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NEAR = 1e-6  # of the largest sum of a layer; fp32 rounds to a tenth of it at 768 channels


class Kinks(TorchDispatchMode):
    """In the block sums near 0 count as positive, or none does; `met` counts them."""

    def __init__(self, positive: bool) -> None:
        super().__init__()
        self.met = 0
        self._positive = positive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ != "relu":
            return func(*args, **(kwargs or {}))
        sums = args[0]
        near = sums.abs() <= NEAR * sums.abs().max()
        self.met += int(near.sum())
        tiny = torch.finfo(sums.dtype).tiny if self._positive else 0.0  # what ReLU's gradient looks at
        return torch.where(near, tiny, sums.clamp_min(0))
