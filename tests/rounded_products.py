"""Products as tensor cores form them: operands rounded, sums in fp32. On any device, for plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def nearest_tf32(x: Tensor) -> Tensor:
    """x in fp32 with 10 bits of its mantissa, rounded to nearest: off by 2^-11 of itself at most."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def cut_tf32(x: Tensor) -> Tensor:
    """The same with the other 13 bits dropped, as tensor cores read fp32 that nothing has rounded: off by 2^-10."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def nearest_bf16(x: Tensor) -> Tensor:
    """Off by 2^-9 of itself at most."""
    return x.bfloat16().float()


class RoundedProducts(TorchDispatchMode):
    """In the block `rounding` is applied to both operands of every product in fp32, those of gradients too.

    Args:
        convolutions: of theirs as well.
    """

    def __init__(self, rounding: Callable[[Tensor], Tensor], convolutions: bool = False) -> None:
        super().__init__()
        self._rounding = rounding
        self._operands = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
        if convolutions:
            self._operands |= {"convolution": (0, 1), "convolution_backward": (0, 1, 2)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rounded = self._operands.get(func.overloadpacket.__name__, ())
        args = [self._rounding(a.contiguous()) if i in rounded else a for i, a in enumerate(args)]
        return func(*args, **(kwargs or {}))
