"""Maps of pictures in their own shapes, beside those that are all squares of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.models.aggregation import image_scores


@dataclass(frozen=True)
class PictureMaps:
    """Patch maps (h, w) of pictures, each in its own shape.

    Attributes:
        pictures: (width, height) of each picture, pixels.
    """

    maps: list[Tensor]
    pictures: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, chosen: Sequence[int]) -> PictureMaps:
        return PictureMaps([self.maps[i] for i in chosen], [self.pictures[i] for i in chosen])


Maps = Tensor | PictureMaps
"""Patch maps (N, H, W), or in pictures' own shapes."""


def scores_of(maps: Maps, config: AblationConfig) -> Tensor:
    """Image scores (N,), see `models.aggregation.image_scores`."""
    if isinstance(maps, Tensor):
        return image_scores(maps, config)
    return torch.cat([image_scores(one[None], config) for one in maps.maps])


def joined(maps: Maps | Sequence[Tensor]) -> Tensor:
    """All values of maps: as they are (N, H, W), or those of maps of several shapes in a row (1, 1, P)."""
    if isinstance(maps, Tensor):
        return maps
    values = maps.maps if isinstance(maps, PictureMaps) else maps
    return torch.cat([one.flatten() for one in values])[None, None]


def together(maps: Sequence[Maps]) -> Maps:
    """One after another; of one kind."""
    squares = [one for one in maps if isinstance(one, Tensor)]
    if squares:
        return torch.cat(squares)
    shaped = [one for one in maps if isinstance(one, PictureMaps)]
    return PictureMaps([m for one in shaped for m in one.maps], [p for one in shaped for p in one.pictures])


def squeezed(maps: Sequence[Tensor], side: int, mode: str) -> Tensor:
    """Maps (H, W) of several shapes, each brought to the square, (N, side, side).

    Args:
        mode: "bilinear" or "nearest".
    """
    return torch.cat([F.interpolate(one[None, None].float(), (side, side), mode=mode)[0] for one in maps])
