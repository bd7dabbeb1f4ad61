"""Tiles of a product: their shape, how a program of that size runs, and the shared memory that it takes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton

LOGDET_ROWS = 64
"""Channels of a partial sum of log-scales in every way, so that whoever allocates them need not know which is taken;
where there are as many."""
_BARRIERS = 256  # bytes


class Tile(NamedTuple):
    """Of the output (rows, tokens) and of the inner dimension; warps and pipeline stages of a program."""

    rows: int
    tokens: int
    inner: int
    warps: int
    stages: int

    def fitted(self, rows: int, tokens: int, inner: int) -> Tile:
        """No larger than an output of this size needs."""
        return self._replace(
            rows=fitting(rows, self.rows), tokens=fitting(tokens, self.tokens), inner=fitting(inner, self.inner)
        )

    def divides(self, rows: int, tokens: int, inner: tuple[int, ...]) -> bool:
        """Whether every tile is full."""
        return rows % self.rows == 0 and tokens % self.tokens == 0 and all(k % self.inner == 0 for k in inner)

    def options(self) -> dict[str, int]:
        """As a kernel takes them."""
        return {
            "BLOCK_M": self.rows,
            "BLOCK_N": self.tokens,
            "BLOCK_K": self.inner,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def default_tile(operation: str, itemsize: int) -> Tile:
    """What no table names, for operands of so many bytes: nothing spills, and 98 KiB of shared memory do."""
    if itemsize > 2:
        return Tile(64, 128, 32, 8, 3)
    return Tile(64 if operation.startswith("coupling") else 128, 128, 64, 8, 3)


def fitting(size: int, largest: int) -> int:
    """A power of two from 16, the least that a product takes, to `largest`."""
    return max(16, min(largest, triton.next_power_of_2(size)))


def precision(dtype: torch.dtype) -> str:
    """How fp32 operands are multiplied: as torch's own products are; bf16 needs no choice."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def shared_bytes(way: str, operation: str, tile: Tile, itemsize: int) -> int:
    """Of a block, at most, for operands of so many bytes; on sm_90 with tensor cores no more than 1 KiB above it."""
    operands = tile.stages * (tile.rows + tile.tokens) * tile.inner * itemsize
    result = tile.rows * tile.tokens * itemsize
    if way == "descriptors" and operation.startswith("relu_product"):
        operands += result  # which leaves while the next tile's operands come
    if way == "descriptors" and operation.startswith("relu_gradient_product"):
        operands = max(operands, 2 * result)  # the hidden layer and its gradient, when the operands are used up
    return operands + _BARRIERS


def launchable(way: str, operation: str, tile: Tile | None, itemsize: int, limit: int) -> bool:
    """Whether a way's blocks fit `limit` bytes of shared memory; what has no tile is launched by others."""
    return tile is None or shared_bytes(way, operation, tile, itemsize) <= limit


@functools.cache
def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block can have; off a GPU those of sm_90, which kernels are compiled for."""
    if device.type != "cuda":
        return 227 << 10
    index = torch.cuda.current_device() if device.index is None else device.index
    return triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
