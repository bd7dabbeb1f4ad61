"""Features and maps of squares, brought back to the pictures that the squares were cut from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .tiling import Tiling


class OfPictures:
    """Which picture each item of a data set of squares is of; squares lie picture by picture, in order.

    Attributes:
        tilings: of each picture.
        owners: the picture of each square (n,).
    """

    def __init__(self, tilings: Sequence[Tiling]) -> None:
        self.tilings = list(tilings)
        self._counts = [len(tiling) for tiling in tilings]
        self._starts = list(itertools.accumulate(self._counts, initial=0))
        self.owners = torch.arange(len(tilings)).repeat_interleave(torch.tensor(self._counts, dtype=torch.long))

    def __len__(self) -> int:
        """Pictures."""
        return len(self.tilings)

    def squares(self, pictures: Sequence[int]) -> list[int]:
        """Those of some pictures, in order."""
        return [i for p in pictures for i in range(self._starts[p], self._starts[p + 1])]

    def means(self, features: Tensor) -> Tensor:
        """Features of pictures (P, D): the mean over those of its squares (n, D)."""
        return torch.stack([of_one.mean(0) for of_one in features.split(self._counts)])

    def stitched(self, pictures: Sequence[int], maps: Tensor) -> list[Tensor]:
        """The map (h, w) of each of some pictures, of those of their `squares` (n, g, g), which are finite."""
        of_each = maps.split([self._counts[p] for p in pictures])
        return [stitched(self.tilings[p], of_one) for p, of_one in zip(pictures, of_each, strict=True)]


def of_pictures(source: Any) -> OfPictures | None:
    """None for features whose items are pictures."""
    return getattr(source, "of_pictures", None)


def picture_count(source: Any) -> int:
    pictures = of_pictures(source)
    return len(source) if pictures is None else len(pictures)


def picture_features(source: Any) -> Tensor:
    """Image-level features of pictures, (P, D)."""
    pictures = of_pictures(source)
    return source.image_features if pictures is None else pictures.means(source.image_features)


def stitched(tiling: Tiling, maps: Tensor) -> Tensor:
    """One map (h, w) of a picture from those of its squares (n, g, g), finite; of its short side it has g patches.

    Where squares overlap each counts the more the farther a place lies from its ends: features next to an edge have
    seen padding. Between patches of a square is interpolated, so squares may begin anywhere. Weights sum to 1.
    """
    if len(maps) == 1:
        return maps[0]
    patches = maps.shape[-1]
    across = maps.new_zeros(patches, _cells(tiling, patches))
    upright = maps.transpose(1, 2) if tiling.is_upright else maps
    for square, (first, share) in zip(upright, _shares(tiling, patches), strict=True):
        across[:, first : first + share.shape[1]] += square @ share.to(maps)
    return (across.T if tiling.is_upright else across).contiguous()


def _cells(tiling: Tiling, patches: int) -> int:
    """Patches along the strip."""
    return max(round(tiling.length * patches / tiling.side), patches)


@lru_cache(maxsize=64)
def _shares(tiling: Tiling, patches: int) -> list[tuple[int, Tensor]]:
    """Of each square the first cell of the strip that it gives to, and what its patches give, (patches, cells)."""
    cells = _cells(tiling, patches)
    centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * (tiling.length / cells)  # pixels
    shares = [_share(centres, start, tiling.side, patches) for start in tiling.starts]
    total = torch.zeros(cells, dtype=torch.float64)
    for first, share in shares:
        total[first : first + share.shape[1]] += share.sum(0)
    return [(first, share / total[first : first + share.shape[1]]) for first, share in shares]


def _share(centres: Tensor, start: int, side: int, patches: int) -> tuple[int, Tensor]:
    inside = ((centres >= start) & (centres <= start + side)).nonzero().flatten()
    at = centres[inside] - start
    place = (at * patches / side - 0.5).clamp(0, patches - 1)
    below = place.floor().long().clamp(max=max(patches - 2, 0))
    share = torch.zeros(patches, len(inside), dtype=torch.float64)
    columns = torch.arange(len(inside))
    share[below, columns] = 1 - (place - below)
    share[(below + 1).clamp(max=patches - 1), columns] += place - below
    weight = torch.minimum(at, side - at) + side / 64  # nowhere 0: the first square is alone at its end
    return int(inside[0]), share * weight
