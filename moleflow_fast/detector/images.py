"""Everything that a detector takes for images, as a sequence of things to decode."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moleflow_fast.data.data_error import DataError
from moleflow_fast.data.decoding import IMAGE_SUFFIXES, as_rgb, load_encoded, load_image
from moleflow_fast.data.finding import find_images
from moleflow_fast.data.framing import require_ordinary_shape
from moleflow_fast.data.image_arrays import SHAPES, NoPicture, conversion_of, pictures_of
from moleflow_fast.errors import UserError

logger = logging.getLogger(__name__)

_Loader = Callable[[], Image.Image]


@dataclass(frozen=True)
class Item:
    """An image still to be decoded: `load` gives it as RGB."""

    source: Path | int
    load: Callable[[], Image.Image]


@dataclass(frozen=True)
class Decoded:
    """The part of an image that the model sees, uint8, with the image's own size, or why it cannot be read.

    (3, S, S), or (n, 3, S, S) where it is seen in squares.
    """

    source: Path | int
    size: tuple[int, int] = (0, 0)
    pixels: Tensor | None = None
    error: str | None = None
    picture: Image.Image | None = None
    """Shrunk for looking at, where that is wanted."""


def items_of(images: Any, streamed: bool = False) -> Iterator[Item]:
    """The images in a path, a folder, a picture, a batch, or any iterable of these; see `data.pictures`.

    Args:
        streamed: of an iterable folders are not looked into, and arrays that are no picture become items that say so.

    Raises:
        UserError: something else, or a folder without images.
    """
    if isinstance(images, (str, os.PathLike)):
        return map(file_item, files_of(Path(images)))
    single = _loaders(images)
    if single is not None:
        return (Item(i, load) for i, load in enumerate(single))
    if isinstance(images, Mapping) or not (hasattr(images, "__iter__") or hasattr(images, "__getitem__")):
        raise _no_image(images)
    return _items_in(iter(images), streamed)


def file_item(path: Path) -> Item:
    return Item(path, lambda: _load_file(path))


def files_of(path: Path) -> list[Path]:
    """The file itself, or all image files below a folder, by name; what is left out there is said.

    Raises:
        DataError: a folder without any, or one that cannot be listed.
    """
    if not path.is_dir():
        return [path]
    found = find_images(path)
    for line in found.left_out.said(path):
        logger.warning(line)
    if not found.images:
        raise DataError(f"{path}: no images below it; they end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found.images


def decode(item: Item, transform: Callable[[Image.Image], Tensor], picture_side: int | None) -> Decoded:
    """Never raises: whatever is wrong with one image must not stop the others.

    Args:
        picture_side: also keep the picture, its long side at most so many pixels.
    """
    try:
        image = item.load()
        require_ordinary_shape(image.size, item.source)
        picture = None if picture_side is None else _shrunk(image, picture_side)
        return Decoded(item.source, image.size, transform(image), picture=picture)
    except UserError as error:
        return Decoded(item.source, error=str(error))
    except Exception as error:  # decoders have raised everything from AssertionError to MemoryError
        return Decoded(item.source, error=f"{item.source}: cannot be decoded ({type(error).__name__}: {error})")


def _items_in(images: Iterator[Any], streamed: bool) -> Iterator[Item]:
    place = 0
    for image in images:
        if isinstance(image, (str, os.PathLike)):
            path = Path(image)
            items: Iterable[Item] = [file_item(path)] if streamed else map(file_item, files_of(path))
        else:
            items = [Item(place + i, load) for i, load in enumerate(_loaders_among(image, streamed))]
        for item in items:
            yield item
            place += 1


def _loaders_among(image: Any, streamed: bool) -> list[_Loader]:
    """`_loaders` of one of several objects; it may change as soon as the next is asked for.

    Cameras write each frame where the last one was, and a PIL image of several pages is one object for all of them.
    """
    if isinstance(image, Image.Image):
        return [_decoded(image)]
    if isinstance(image, Tensor):
        image = image.clone()
    elif hasattr(image, "__array__"):
        image = np.asarray(image).copy()
    try:
        loaders = _loaders(image)
    except NoPicture as error:
        if not streamed:
            raise
        return [_failing(error)]
    if loaders is None:
        raise _no_image(image)
    return loaders


def _decoded(image: Image.Image) -> _Loader:
    try:
        now = as_rgb(image)
    except Exception as error:  # whatever its decoder raises, as in `decode`, which says it
        return _failing(error)
    return lambda: now


def _failing(error: Exception) -> _Loader:
    def fail() -> Image.Image:
        raise error

    return fail


def _load_file(path: Path) -> Image.Image:
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a regular file")
    return load_image(path)


def _loaders(images: Any) -> list[_Loader] | None:
    """A function for each picture in an object that is one or a batch of them; None of another object.

    Raises:
        NoPicture: shape, type or values forbid it.
    """
    if isinstance(images, Image.Image):
        return [partial(as_rgb, images)]
    if isinstance(images, (bytes, bytearray, memoryview)):
        return [partial(load_encoded, bytes(images))]
    if hasattr(images, "read") and hasattr(images, "seek"):
        return [partial(load_encoded, images.read())]
    if isinstance(images, Tensor):
        return _loaders_of_array(_array_of(images), torchs=True)
    if hasattr(images, "__array__"):
        return _loaders_of_array(np.asarray(images), torchs=False)
    return None


def _loaders_of_array(array: np.ndarray, torchs: bool) -> list[_Loader]:
    pictures = pictures_of(array, torchs)
    to_bytes = conversion_of(array)
    return [partial(_picture_of, picture, to_bytes) for picture in pictures]


def _picture_of(picture: np.ndarray, to_bytes: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(to_bytes(picture))).convert("RGB")


def _array_of(tensor: Tensor) -> np.ndarray:
    values = tensor.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _no_image(images: Any) -> UserError:
    camera = isinstance(images, tuple) or hasattr(images, "read")  # what read() gives, or who has it
    hint = "; of a camera give its frames, see examples/frames.py" if camera else ""
    return UserError(
        f"no image: {type(images).__name__}; give a path, a folder, a PIL image, the bytes of a file, a NumPy array or "
        f"torch tensor of shape {SHAPES}, or an iterable of such{hint}"
    )


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    picture = image.copy()
    picture.thumbnail((side, side), reducing_gap=1.0)  # a third of the default's time; this is only looked at
    return picture
