"""The squares of a data set's pictures as a data set of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .data_error import raise_all
from .datasets import AnomalyImages, angle
from .normalization import normalized
from .requests import Picture


class TileImages(AnomalyImages):
    """Item i is the square of one picture that `places[i]` names, as `AnomalyImages` gives a picture; masks are zero.

    Attributes:
        tilings: of each picture.
        places: (picture, square) of each item, picture by picture.

    Args:
        pictures: seen by a frame of ours, under the view "tiles".

    Raises:
        DataError: the size of a file cannot be read.
    """

    def __init__(self, pictures: AnomalyImages) -> None:
        frame = pictures.frame
        assert frame is not None
        self._frame = frame
        self.tilings = [frame.tiling_of(sample.path) for sample in pictures.samples]
        self.places = [(p, k) for p, tiling in enumerate(self.tilings) for k in range(len(tiling))]
        super().__init__(
            [pictures.samples[p] for p, _ in self.places],
            has_masks=False,
            img_size=frame.size,
            crp_size=frame.crop,
            msk_size=frame.mask,
            use_rotation_aug=pictures.degrees > 0,
            rotation_degrees=pictures.degrees,
            view="tiles",
        )

    def picture(self, index: int, seed: int = 0) -> Picture:
        generator = torch.Generator().manual_seed(seed) if self.degrees else None
        return self._request(index, angle(self.degrees, generator))

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor, str, str]:
        sample = self.samples[index]
        answer = self._request(index, angle(self.degrees)).answer()
        raise_all(answer.problems)
        image = normalized(torch.from_numpy(answer.arrays[0])[None])[0]
        mask = torch.zeros(1, self.msk_size, self.msk_size)
        return image, sample.label, mask, sample.path.stem, sample.type

    def _request(self, index: int, degrees: float) -> Picture:
        return self._frame.tile_of(self.samples[index].path, self.places[index][1], degrees)
