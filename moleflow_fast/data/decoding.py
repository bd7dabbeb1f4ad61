"""From an image file to RGB pixels or a binary mask, whatever its format, mode and orientation."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

_FULL_16_BIT = 65535.0
# What Pillow raises for a damaged file depends on the format and on where the damage is.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)


def load_image(path: Path) -> Image.Image:
    """An RGB image, upright as its EXIF orientation says.

    Grey is repeated, alpha dropped, a palette looked up. 16-bit values are scaled from 0..65535, floating
    point from 0..1: never by an image's own range, which would hide differences in brightness.

    Raises:
        DataError: damaged, truncated, too large to be trusted, or no image.
    """
    with _readable(path), Image.open(path) as image:
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """An open image as `load_image` gives it."""
    return _upright(_to_eight_bit(image).convert("RGB"), image)


def load_mask(path: Path) -> Image.Image:
    """A mask in mode L, 255 where defective.

    Every pixel that is not zero counts, so class indices work as well as 0 and 255; in a JPEG, whose zeros are
    only nearly zero, those of 128 and more.
    """
    with _readable(path), Image.open(path) as image:
        lossy = image.format == "JPEG"
        grey = image if image.mode in ("1", "P", "L", "I;16", "I", "F") else image.convert("L")
        marked = np.asarray(grey) >= 128 if lossy else np.asarray(grey) != 0
        return _upright(Image.fromarray(marked.astype(np.uint8) * 255), image)


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) as the file has it, from the header alone: displayed it may be turned."""
    with _readable(path), Image.open(path) as image:
        return image.size


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) as displayed, from the header alone."""
    with _readable(path), Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return (height, width) if turned else (width, height)


def verify(path: Path) -> None:
    """Read a whole file and find damage, several times faster than decoding it.

    PNG: checksums of every chunk up to the end; JPEG: entropy decoding at an eighth of the size; others: decoded.

    Raises:
        DataError: see `load_image`.
    """
    with _readable(path), Image.open(path) as image:
        if image.format == "PNG":
            image.verify()
            return
        if image.format == "JPEG":
            image.draft("L", (1, 1))
        image.load()


def load_whole(path: Path) -> Image.Image:
    """`load_image` that finds what `verify` finds too, and says it in the same words; the disk is read once.

    Raises:
        DataError: see `load_image`.
    """
    with _readable(path), Image.open(path) as image:
        if image.format == "PNG":
            image.verify()  # the checksums of its chunks, which decoding passes over
    try:
        return load_image(path)
    except DataError:
        verify(path)
        raise


_ORIENTATION = 0x0112


def _to_eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # "I;16", "I;16B", and "I", as which some 16-bit PNG and TIFF files open
        scale = 255 / _FULL_16_BIT
    elif image.mode == "F":
        scale = 255.0
    else:
        return image
    pixels = np.clip(np.asarray(image, dtype=np.float64) * scale, 0, 255).round()
    return Image.fromarray(pixels.astype(np.uint8))


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    image.getexif().update(source.getexif())  # conversions lose it
    return ImageOps.exif_transpose(image)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); its owner can let others read it") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image that Pillow reads; remove it or save it again as PNG") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels to be a photograph ({error}); scale it down or remove it") from error
    except _DECODER_ERRORS as error:
        remedy = "copy it again from its source or remove it"
        raise DataError(f"{path}: damaged or cut short ({error}); {remedy}") from error
