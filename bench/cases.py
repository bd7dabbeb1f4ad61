"""What a kernel is timed and tested on: the sizes of a coupling block, and a kernel beside its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from counts import Work
from device import DEVICE
from torch import Tensor

from moleflow_fast.kernels import channel_major

CLAMP = 1.9  # of log-scales
TASKS = 15  # known, where each image has one of its own
PARTS_OF_RANK = 12  # rank 64 at 768 channels


@dataclass(frozen=True)
class Sizes:
    """A block with context of `channels` D, on a grid of (images, H, W); on "meta" its cases have no numbers."""

    channels: int
    grid: tuple[int, int, int]
    dtype: torch.dtype = torch.float32  # of what products read
    device: str = DEVICE

    @property
    def tokens(self) -> int:
        images, height, width = self.grid
        return images * height * width

    @property
    def driver(self) -> int:
        """Width of the half that a coupling reads."""
        return self.channels - self.channels // 2

    @property
    def driven(self) -> int:
        return self.channels // 2

    @property
    def hidden(self) -> int:
        """Units of a network of a base block."""
        return 2 * self.driver

    @property
    def units(self) -> int:
        """Units of a network of the task flow."""
        return self.channels // 2

    @property
    def rank(self) -> int:
        return max(1, self.channels // PARTS_OF_RANK)

    @property
    def driving_rows(self) -> Tensor:
        """Every second row of the state, int32 as kernels read them."""
        return torch.arange(0, 2 * self.driver, 2, dtype=torch.int32, device=self.device)

    @property
    def driven_rows(self) -> Tensor:
        return torch.arange(1, 2 * self.driven, 2, dtype=torch.int32, device=self.device)

    @property
    def tasks(self) -> list[int]:
        """Of each image."""
        return [image % TASKS for image in range(self.grid[0])]

    def operand(self, rows: int) -> Tensor:
        """(rows, N) as products read it."""
        return self.state(rows, self.dtype)

    def state(self, rows: int, dtype: torch.dtype | None = None) -> Tensor:
        """(rows, N), fp32 by default."""
        out = channel_major(rows, self.tokens, torch.empty(0, device=self.device), dtype)
        return out.copy_(self.normal(rows, self.tokens))

    def weight(self, *shape: int) -> Tensor:
        """(..., out, in) as products read it; what they give is near 1."""
        return (self.normal(*shape) / shape[-1] ** 0.5).to(self.dtype)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device)

    def affine(self, rows: int) -> Tensor:
        """Scales near 1 and offsets near 0, (rows, 2): benchmarks apply them over and over to the same state."""
        return torch.tensor([1.0, 0.0], device=self.device) + 0.001 * self.normal(rows, 2)


@dataclass(frozen=True)
class Case:
    """`kernel` and `definition` return what they compute; either may also change operands that it is given anew."""

    kernel: Callable[[], tuple[Tensor, ...]]
    definition: Callable[[], tuple[Tensor, ...]]
    work: Work
    fp32: bool = False  # its multiply-adds are of fp32 numbers, whatever products read


def moved(*tensors: Tensor) -> int:
    """Bytes of tensors that are read or written once."""
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
