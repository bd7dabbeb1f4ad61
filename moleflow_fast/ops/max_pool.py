"""Max pooling of a frozen network, channels-last on a GPU.

torch's own takes 839 us for 256 images of 112 x 112 x 64 in bf16 on an H200, whose memory moves as many bytes in 122.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.backend import wants_triton

_TAKEN = (torch.float32, torch.bfloat16, torch.float16)


@torch.library.custom_op("moleflow::max_pool", mutates_args=())
def max_pool(x: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """x (B, C, H, W) -> (B, C, H', W'), without gradients; NaN is the largest."""
    takes = x.dtype in _TAKEN and x.is_contiguous(memory_format=torch.channels_last) and x.numel() > 0
    if not (takes and wants_triton(x.device)):
        return F.max_pool2d(x, side, stride, padding)
    # Imported when first needed: an installation for the CPU may lack Triton.
    from moleflow_fast.kernels import max_pool as kernels

    lines, columns = ((n + 2 * padding - side) // stride + 1 for n in x.shape[2:])
    out = x.new_empty(x.shape[0], lines, columns, x.shape[1])
    return kernels.max_pool(x, side, stride, padding, out.permute(0, 3, 1, 2))


@max_pool.register_fake
def _(x: Tensor, side: int, stride: int, padding: int) -> Tensor:
    return F.max_pool2d(x, side, stride, padding)
