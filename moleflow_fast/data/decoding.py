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
from PIL import Image, ImageOps, UnidentifiedImageError, features

from .data_error import DataError
from .drawn_mask import DrawnMask
from .image_arrays import NoPicture, eight_bits, of_16_bits, of_32_bits

logger = logging.getLogger(__name__)

_NEEDS = {".webp": "webp", ".avif": "avif", ".jp2": "jpg_2000"}  # what an installed Pillow may have been built without


def _image_suffixes() -> frozenset[str]:
    known = {*features.modules, *features.codecs}
    optional = {suffix for suffix, name in _NEEDS.items() if name in known and features.check(name)}
    always = ".png .apng .jpg .jpeg .jpe .jfif .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .tga"
    return frozenset(always.split()) | optional


IMAGE_SUFFIXES = _image_suffixes()

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


def load_mask(path: Path | DrawnMask) -> Image.Image:
    """A mask in mode L, 255 where defective.

    Every pixel that is not zero in some channel counts, so class indices work as well as 0 and 255; in a JPEG, whose
    zeros are only nearly zero, those of 128 and more. Where there is an alpha layer, pixels that it hides do not count,
    and without any colour it is the mask itself. Of a palette the indices count, unless it says what is background: a
    transparent colour, or black where index 0 is another one.
    """
    if isinstance(path, DrawnMask):
        return path.image()
    with _readable(path), Image.open(path) as image:
        return _upright(Image.fromarray(_marked(image).astype(np.uint8) * 255), image)


def mask_values(path: Path | DrawnMask) -> str:
    """The commonest values of a mask file as they are stored, in words, to show what it was taken for."""
    if isinstance(path, DrawnMask):
        return "drawn by annotations"
    with _readable(path), Image.open(path) as image:
        pixels = np.asarray(image)
    flat = pixels.reshape(len(pixels) * pixels.shape[1], -1)
    values, counts = np.unique(flat, axis=0, return_counts=True)
    order = np.argsort(-counts)
    names = [
        str(value[0]) if len(value) == 1 else str(tuple(value.tolist())) for value in values[order[:_SHOWN_VALUES]]
    ]
    shares = counts[order] / len(flat)
    listed = ", ".join(f"{name} in {share:.1%}" for name, share in zip(names, shares, strict=False))
    return listed + (f" and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else "")


def has_frames(path: Path) -> bool:
    """Whether a file that can be an animation, or have pages, has more than the one that is used."""
    if path.suffix.lower() not in _WITH_FRAMES:
        return False
    with _readable(path), Image.open(path) as image:
        return bool(getattr(image, "is_animated", False))


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
_WITH_FRAMES = frozenset({".gif", ".webp", ".avif", ".apng", ".tif", ".tiff"})
_SHOWN_VALUES = 4


def _marked(image: Image.Image) -> np.ndarray:
    """(H, W) bool, as `load_mask` says."""
    if image.mode in ("P", "PA"):
        return _marked_of_palette(image)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return _counts(np.asarray(image), image.format)
    if not image.has_transparency_data:
        return np.asarray(_counts(np.asarray(image.convert("RGB")), image.format).any(2))
    pixels = np.asarray(image.convert("RGBA"))
    coloured = np.asarray(_counts(pixels[..., :3], image.format).any(2))
    visible = np.asarray(pixels[..., 3] != 0)
    return coloured & visible if coloured.any() else visible


def _counts(values: np.ndarray, file_format: str | None) -> np.ndarray:
    lossy = file_format in ("WEBP", "AVIF", "JPEG2000") and bool((values >= 128).any())
    return np.asarray(values >= 128 if lossy or file_format in ("JPEG", "MPO") else values != 0)


def _marked_of_palette(image: Image.Image) -> np.ndarray:
    hidden = np.asarray(image.convert("RGBA"))[..., 3] == 0
    return np.asarray(~hidden if hidden.any() else np.asarray(image.getchannel(0)) != 0)


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
        what = "a link to a file that is not there; mend or remove it" if Path(path).is_symlink() else "no such file"
        raise DataError(f"{path}: {what}") from error
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); its owner can let others read it") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image that Pillow reads; remove it or save it again as PNG") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels to be a photograph ({error}); scale it down or remove it") from error
    except _DECODER_ERRORS as error:
        remedy = "copy it again from its source or remove it"
        raise DataError(f"{path}: damaged or cut short ({error}); {remedy}") from error
