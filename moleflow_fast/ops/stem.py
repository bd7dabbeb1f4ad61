"""A network's first convolution, 7 x 7 with stride 2 and padding 3, bias and ReLU, on blocks of 2 x 2 pixels.

A library pads the three channels of a pixel to what it reads at once: of the 8.6 ms that the 43 convolutions of a
WideResNet-50-2 take for 256 images in bf16 on an H200, the one kernel that reads so few channels takes 1.5. In blocks
only every fourth channel, and an eighth tap beside the seven, are padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.backend import wants_triton

_TAKEN = (torch.bfloat16, torch.float16)  # exact products of fp32 are better with a library


def blocks_of(images: Tensor) -> Tensor:
    """Images (B, C, H, W), C <= 4 -> (B, R, S, 16), R = ceil(H / 2) + 3: blocks of (line, column, channel).

    The first block starts four pixels before the image; outside of it, and beyond its channels, there are zeros.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (4, 2 + width % 2, 4, 2 + height % 2, 0, 4 - channels))
    pairs = padded.reshape(batch, 4, padded.shape[2] // 2, 2, padded.shape[3] // 2, 2)
    return pairs.permute(0, 2, 4, 3, 5, 1).reshape(batch, *pairs.shape[2:5:2], 16)


def blocked(weight: Tensor) -> Tensor:
    """Weight (M, C, 7, 7) -> (M, 4, 64): for each line of blocks what the four blocks in a row are multiplied with."""
    padded = F.pad(weight, (1, 0, 1, 0, 0, 4 - weight.shape[1]))  # an eighth tap before the seven
    pairs = padded.reshape(len(weight), 4, 4, 2, 4, 2)  # output, channel, block, line, block, column
    return pairs.permute(0, 2, 4, 3, 5, 1).reshape(len(weight), 4, 64)


@torch.library.custom_op("moleflow::stem", mutates_args=())
def stem(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, M, H, W), channels-last, without gradients.

    Args:
        x: (B, H + 3, W + 3, 16), contiguous, see `blocks_of`.
        weight: (M, 4, 64), see `blocked`.
        bias: (M,).
    """
    batch, rows, columns, _ = x.shape
    # Triton's interpreter multiplies raw bits of bf16.
    takes = x.dtype in _TAKEN and x.numel() > 0 and (x.is_cuda or x.dtype != torch.bfloat16)
    if not (takes and wants_triton(x.device)):
        return stem_reference(x, weight, bias)
    # Imported when first needed: an installation for the CPU may lack Triton.
    from moleflow_fast.kernels import stem as kernels

    out = x.new_empty(batch, rows - 3, columns - 3, len(weight))
    return kernels.stem(x, weight, bias, out).permute(0, 3, 1, 2)


def stem_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition: 4 x 4 with stride 1."""
    taps = weight.view(len(weight), 4, 4, 16).permute(0, 3, 1, 2)
    return F.conv2d(x.permute(0, 3, 1, 2), taps, bias).relu().contiguous(memory_format=torch.channels_last)


@stem.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] - 3, x.shape[2] - 3, len(weight)).permute(0, 3, 1, 2)
