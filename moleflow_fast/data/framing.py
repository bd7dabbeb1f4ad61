"""Which part of a picture a backbone sees, with Pillow alone: decoding processes have no torch."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from .data_error import DataError

LONGEST = 100  # sides of a picture, long to short: a strip of 1 x 10,000 would be blown up to gigabytes on its way
NEARLY_SQUARE = 1.1  # up to here a centre crop loses a twentieth at either end


def scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) with the short side at `short`; the long one cut to whole ones, as torchvision's Resize does."""
    width, height = size
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)


def framed(image: Image.Image, short: int, crop: int, resample: Image.Resampling, angle: float = 0.0) -> Image.Image:
    """Short side to `short`, turned by `angle` degrees (nearest, black outside), central `crop` x `crop` pixels."""
    resized = turned(image.resize(scaled(image.size, short), resample), angle)
    left, top = (_start(side, crop) for side in resized.size)
    return resized.crop((left, top, left + crop, top + crop))  # black where it is larger than the image


def turned(image: Image.Image, angle: float) -> Image.Image:
    """By `angle` degrees about the centre, nearest, black outside."""
    return image.rotate(angle, Image.Resampling.NEAREST) if angle else image


def elongation(size: Sequence[int]) -> float:
    """Long side to short side."""
    return max(size) / min(size)


def require_ordinary_shape(size: Sequence[int], name: object) -> None:
    """The one limit on the shape of pictures, for those to train on and those to label.

    Raises:
        DataError: names the picture and the limit.
    """
    if min(size) == 0 or elongation(size) > LONGEST:
        raise DataError(
            f"{name}: {size[0]} x {size[1]} is too narrow to be a photograph; the long side may have {LONGEST} times "
            "the short one at most: crop it"
        )


def _start(side: int, crop: int) -> int:
    """Of the central `crop` pixels of a side, rounded as torchvision's CenterCrop does."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
