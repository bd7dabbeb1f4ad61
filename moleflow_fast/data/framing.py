"""Which part of a picture a backbone sees, with Pillow alone: decoding processes have no torch."""

from __future__ import annotations

from PIL import Image


def scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) with the short side at `short`; the long one cut to whole ones, as torchvision's Resize does."""
    width, height = size
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)


def framed(image: Image.Image, short: int, crop: int, resample: Image.Resampling, angle: float = 0.0) -> Image.Image:
    """Short side to `short`, turned by `angle` degrees (nearest, black outside), central `crop` x `crop` pixels."""
    resized = image.resize(scaled(image.size, short), resample)
    if angle:
        resized = resized.rotate(angle, Image.Resampling.NEAREST)
    left, top = (_start(side, crop) for side in resized.size)
    return resized.crop((left, top, left + crop, top + crop))  # black where it is larger than the image


def _start(side: int, crop: int) -> int:
    """Of the central `crop` pixels of a side, rounded as torchvision's CenterCrop does."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
