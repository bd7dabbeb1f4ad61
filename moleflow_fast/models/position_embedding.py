"""Two-dimensional sinusoidal positions, added to the patch features before the flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def positionalencoding2d(D: int, H: int, W: int, device: torch.device | str | None = None) -> Tensor:
    """Sinusoid of shape (D, H, W): the first D/2 channels encode the column, the last D/2 the row.

    Even channels are sines, odd ones cosines, with frequencies exp(-ln(1e4) * 2i / (D/2)).

    Raises:
        ValueError: D is not a multiple of 4.
    """
    if D % 4 != 0:
        raise ValueError(f"a 2-D sinusoid needs a width that is a multiple of 4, got {D}")
    half = D // 2
    places = torch.arange(0, half, 2, dtype=torch.float32, device=device)
    frequency = torch.exp(places * -(math.log(1e4) / half))  # (D/4,)
    column = torch.arange(W, device=device).unsqueeze(0) * frequency.unsqueeze(1)  # (D/4, W)
    row = torch.arange(H, device=device).unsqueeze(0) * frequency.unsqueeze(1)  # (D/4, H)
    encoding = torch.empty(D, H, W, dtype=torch.float32, device=device)
    encoding[0:half:2] = column.sin().unsqueeze(1)
    encoding[1:half:2] = column.cos().unsqueeze(1)
    encoding[half::2] = row.sin().unsqueeze(2)
    encoding[half + 1 :: 2] = row.cos().unsqueeze(2)
    return encoding


class PositionalEmbeddingGenerator:
    """Adds positions to patches; the encoding of each grid size is made once."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device
        self._encodings: dict[tuple[int, int, int], Tensor] = {}
        self._moved: dict[tuple[object, ...], Tensor] = {}

    def __call__(self, spatial_shape: tuple[int, int], patches: Tensor) -> Tensor:
        """patches (B, H, W, D) + encoding (H, W, D)."""
        return patches + self.beside(spatial_shape, patches)

    def beside(self, spatial_shape: tuple[int, int], patches: Tensor) -> Tensor:
        """The encoding (H, W, D) on the device and in the dtype of patches (B, H, W, D)."""
        key = (*spatial_shape, patches.shape[-1], patches.device, patches.dtype)
        if key not in self._moved:  # once: a copy from the host would end the capture of a CUDA graph
            self._moved[key] = self.encoding(spatial_shape, patches.shape[-1]).to(patches)
        return self._moved[key]

    def encoding(self, spatial_shape: tuple[int, int], dim: int) -> Tensor:
        """The encoding as (H, W, D), contiguous."""
        key = (*spatial_shape, dim)
        if key not in self._encodings:
            encoding = positionalencoding2d(dim, *spatial_shape, device=self.device)
            self._encodings[key] = encoding.permute(1, 2, 0).contiguous()
        return self._encodings[key]
