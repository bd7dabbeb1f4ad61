"""Triton kernels, one file an operation; they know tensors, never modules.

The flow's tokens are channel-major, (channels, N): a permutation of the channels is then a row index that loads stay
coalesced under, and sums over channels run down columns. Rows are padded to a multiple of 16 tokens (`row_stride`), so
that every row starts aligned. Kernels read and write the padding too: only a bound that is a multiple of 16 lets the
compiler move 16 bytes at a time, and keeps the products' operands on asynchronous copies. What stands in the padding
never gets into a result. What stands around the flow (`whitening`, `gaussian_front`, `density`, `image_score`,
`patch_pool`, `pixel_map`, `mahalanobis`, `shared_mahalanobis`, `normalize`, `stem`, `max_pool`) reads tokens as they
come, (N, channels).

With `TRITON_INTERPRET=1` in the environment before the import they run on CPU tensors in Triton's interpreter.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_stride(tokens: int) -> int:
    """Tokens a row of a channel-major tensor has room for."""
    return (tokens + 15) // 16 * 16


def channel_major(rows: int, tokens: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised (rows, tokens) tensor whose rows start aligned."""
    return like.new_empty(rows, row_stride(tokens), dtype=dtype or like.dtype)[:, :tokens]
