"""From an image file to RGB pixels or a binary mask, whatever its format, mode and orientation."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import DataError
from .pictures import NoPicture, eight_bits, of_16_bits, of_32_bits

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

# What Pillow raises for a damaged file depends on the format and on where the damage is.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)


def load_image(path: Path) -> Image.Image:
    """An RGB image, upright as its EXIF orientation says.

    Grey is repeated, alpha dropped, a palette looked up; 16 bits and floating point are scaled as `pictures` says,
    never by an image's own range, which would hide differences in brightness. Of several pages the first is taken, and
    that is said.

    Raises:
        DataError: damaged, truncated, too large to be trusted, or no image.
    """
    with _readable(path), Image.open(path) as image:
        return _first_page(image, path)


def load_encoded(content: bytes) -> Image.Image:
    """`load_image` of what stands in a file.

    Raises:
        DataError: see `load_image`.
    """
    name = "bytes, taken for the content of an image file"
    with _readable(name), Image.open(io.BytesIO(content)) as image:
        return _first_page(image, name)


def as_rgb(image: Image.Image) -> Image.Image:
    """An open image as `load_image` gives it.

    Raises:
        NoPicture: values that may mean more than one thing, see `pictures`.
    """
    return _upright(_in_rgb(_to_eight_bit(image)), image)


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
        _to_eight_bit(image)


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


_ON_THE_WAY_TO_RGB = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}  # which Pillow does not know


def _to_eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # so it opens before Pillow 11.3
        return Image.fromarray(of_16_bits(np.asarray(image)))
    if image.mode == "I":
        return Image.fromarray(of_32_bits(np.asarray(image)))
    if image.mode == "F":
        return Image.fromarray(eight_bits(np.asarray(image)))
    return image


def _in_rgb(image: Image.Image) -> Image.Image:
    between = _ON_THE_WAY_TO_RGB.get(image.mode)
    return (image if between is None else image.convert(between)).convert("RGB")


def _first_page(image: Image.Image, name: Path | str) -> Image.Image:
    first = as_rgb(image)
    # Phones put previews and depth behind a photograph, as pages of an MPO file.
    if image.format != "MPO" and _has_more_pages(image):
        _say_pages(str(name))
    return first


def _has_more_pages(image: Image.Image) -> bool:
    try:
        return getattr(image, "is_animated", False)
    except _DECODER_ERRORS:  # in a page that is not looked at
        return True


@cache
def _say_pages(name: str) -> None:
    logger.warning("%s: has several pages, and the first alone is looked at; save the others as files too", name)


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    image.getexif().update(source.getexif())  # conversions lose it
    return ImageOps.exif_transpose(image)


@contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    try:
        yield
    except NoPicture as error:
        raise DataError(f"{path}: {error}") from error
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
