"""What a picture is, where one comes as numbers. This is the one place that says so.

    (H, W), (H, W, 1)                 grey
    (H, W, 3), (H, W, 4)              RGB, and RGB with alpha
    (1, H, W), (3, H, W), (4, H, W)   the same with channels first
    (N, H, W, C), (N, C, H, W)        a batch of either kind

Torch has channels first; of a NumPy array that is said once. Alpha is left out, and that is said once. Other shapes are
refused: (N, H, W) may be grey pictures, or channels. Values are never stretched to a picture's own range:

    uint8            as they are
    bool             black and white
    uint16           0..65535, as in files of 16 bits; of a camera of 12 bits give `frame << 4`
    floating point   0..1 where none exceeds 1, 0..255 where the highest is 16 to 255; of a batch all alike

Floating point whose highest value lies between 1 and 16 is refused: it may be too bright, or nearly black. So are
negative and larger values, as a normalisation leaves them, values that are not finite, and other types of integers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from .data_error import DataError

logger = logging.getLogger(__name__)

SHAPES = "(H, W), (H, W, C), (C, H, W), or a batch (N, H, W, C), (N, C, H, W), with C of 1, 3 or 4"
_CHANNELS = (1, 3, 4)
_FULL_16_BIT = 65535
_SURELY_BYTES = 16  # a picture of 0..255 with no higher value is black to the eye
_ROUNDING = 1e-3  # by which resizing and the like may leave a range


class NoPicture(DataError):
    """Numbers that are no picture, or that may be one in more than one way; names no file."""


def pictures_of(array: NDArray, torchs: bool = False) -> list[NDArray]:
    """Views (H, W) or (H, W, 3) of the pictures in an array.

    Args:
        torchs: of torch, where channels come first unless they cannot.

    Raises:
        NoPicture: it has another shape.
    """
    if array.ndim == 2 and array.size:
        return [array]
    if array.ndim not in (3, 4) or not array.size:
        raise _other_shape(array)
    last = array.shape[-1] in _CHANNELS
    if array.shape[-3] in _CHANNELS and (torchs or not last):
        if not torchs and array.shape[-3] > 1:
            _say_channels_first()
        array, last = np.moveaxis(array, -3, -1), True
    if not last:
        raise _other_shape(array)
    return [_without_alpha(picture) for picture in (array if array.ndim == 4 else [array])]


def conversion_of(array: NDArray) -> Callable[[NDArray], NDArray[np.uint8]]:
    """How values become bytes: of this array, or of its parts.

    Raises:
        NoPicture: another type, values that are not finite, or out of both ranges.
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if (kind, size) == ("u", 1):
        return np.asarray
    if (kind, size) == ("u", 2):
        return of_16_bits
    if kind == "b":
        return partial(_scaled, factor=255.0)
    if kind == "f":
        return partial(_scaled, factor=_factor(array))
    raise NoPicture(
        f"values of type {array.dtype}, whose range is unknown: give uint8 (0..255), uint16 (0..65535) or floating "
        "point (0..1 or 0..255)"
    )


def eight_bits(values: NDArray) -> NDArray[np.uint8]:
    """The values of one picture as bytes.

    Raises:
        NoPicture: see `conversion_of`.
    """
    return conversion_of(values)(values)


def of_16_bits(values: NDArray) -> NDArray[np.uint8]:
    """Integers 0..65535 as bytes."""
    return _bytes_of_16_bits()[values]


def of_32_bits(values: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Integers of a picture of 32 bits as bytes: 0..255 where the highest is 16 to 255, else 0..65535.

    Raises:
        NoPicture: it has more bits, or negative values.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _FULL_16_BIT:
        raise NoPicture(f"integers from {low} to {high}: save it with 8 or 16 bits (0..255, 0..65535)")
    return values.astype(np.uint8) if _SURELY_BYTES <= high <= 255 else of_16_bits(values)


def _factor(array: NDArray) -> float:
    """What values of floating point are multiplied by."""
    if not np.isfinite(array).all():
        raise NoPicture("values that are not finite (NaN or infinity): find where they come from, or fill them in")
    low, high = float(array.min()), float(array.max())
    if low < -_ROUNDING or high > 255 + _ROUNDING:
        raise NoPicture(
            f"floating point from {low:g} to {high:g}, which must lie in 0..1 or 0..255: give a picture before any "
            "normalisation, and 16 bits as uint16"
        )
    if high <= 1 + _ROUNDING:
        return 255.0
    if high < _SURELY_BYTES:
        raise NoPicture(
            f"floating point up to {high:g}, which may be 0..1 with values too high, or 0..255 and nearly black: give "
            "0..1, or uint8"
        )
    return 1.0


def _scaled(values: NDArray, factor: float) -> NDArray[np.uint8]:
    return np.clip(values.astype(np.float64) * factor, 0, 255).round().astype(np.uint8)


@cache
def _bytes_of_16_bits() -> NDArray[np.uint8]:
    """(65536,)"""
    return (np.arange(_FULL_16_BIT + 1) * (255 / _FULL_16_BIT)).round().astype(np.uint8)


def _without_alpha(picture: NDArray) -> NDArray:
    """(H, W, 1 | 3 | 4) -> (H, W) or (H, W, 3)"""
    if picture.shape[-1] == 4:
        _say_alpha()
        return picture[..., :3]
    return picture[..., 0] if picture.shape[-1] == 1 else picture


@cache  # once a process
def _say_alpha() -> None:
    logger.warning("pictures of four channels: the first three are taken for RGB, the fourth, alpha, is left out")


@cache
def _say_channels_first() -> None:
    logger.warning(
        "NumPy arrays whose first of three last dimensions is 3 or 4 are taken for pictures with channels first; of "
        "grey pictures give a list, or array[..., None]"
    )


def _other_shape(array: NDArray) -> NoPicture:
    grey = "; of grey pictures give a list, or array[..., None]" if array.ndim == 3 and array.size else ""
    return NoPicture(f"shape {array.shape} is no picture's: it must be {SHAPES}{grey}")
