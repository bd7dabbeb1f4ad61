"""Everything that a detector takes for images, as a sequence of things to decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moleflow_fast.data.decoding import IMAGE_SUFFIXES, as_rgb, load_image
from moleflow_fast.data.errors import DataError
from moleflow_fast.data.framing import require_ordinary_shape
from moleflow_fast.errors import UserError


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


def items_of(images: Any) -> Iterator[Item]:
    """The images in a path, a folder, an array, a PIL image, a tensor, or a list of any of these.

    Raises:
        UserError: something else, an array of another shape or type, or a folder without images.
    """
    if isinstance(images, (str, Path)):
        return map(file_item, files_of(Path(images)))
    if isinstance(images, (list, tuple)):
        return _items_of_list(images)
    return (Item(i, _loader(image)) for i, image in enumerate(_single_images(images)))


def file_item(path: Path) -> Item:
    return Item(path, lambda: _load_file(path))


def files_of(path: Path) -> list[Path]:
    """The file itself, or all image files below a folder, by name.

    Raises:
        DataError: a folder without any, or one that cannot be listed.
    """
    if not path.is_dir():
        return [path]
    found = sorted(_below(path))
    if not found:
        raise DataError(f"{path}: no images below it; they end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


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


def _items_of_list(images: list[Any] | tuple[Any, ...]) -> Iterator[Item]:
    place = 0
    for image in images:
        if isinstance(image, (str, Path)):
            for item in items_of(image):
                yield item
                place += 1
            continue
        for single in _single_images(image):
            yield Item(place, _loader(single))
            place += 1


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    for place, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path


def _load_file(path: Path) -> Image.Image:
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a regular file")
    return load_image(path)


def _loader(image: Any) -> Callable[[], Image.Image]:
    return lambda: as_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image))


def _single_images(images: Any) -> Iterable[Any]:
    """PIL images, or arrays (H, W) or (H, W, 3) of bytes."""
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, Tensor):
        return _images_of_tensor(images)
    if isinstance(images, np.ndarray):
        return _images_of_array(images)
    raise UserError(
        f"no image: {type(images).__name__}; give a path, a folder, a PIL image, a NumPy array (H, W) or (H, W, 3) of "
        "uint8, a torch tensor (3, H, W), a batch of one of these, or a list"
    )


def _images_of_array(array: np.ndarray) -> list[np.ndarray]:
    if array.dtype != np.uint8:
        raise UserError(f"NumPy images must be uint8, got {array.dtype}: scale them to 0..255 as the files were")
    coloured = array.ndim >= 3 and array.shape[-1] == 3
    if array.ndim not in ((3, 4) if coloured else (2, 3)) or 0 in array.shape[-3:]:
        raise UserError(f"NumPy images must be (H, W), (H, W, 3) or a batch of these, got {array.shape}")
    return list(array) if array.ndim == 3 + coloured else [array]


def _images_of_tensor(tensor: Tensor) -> list[np.ndarray]:
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise UserError(f"torch images must be uint8, or floating point in 0..1, got {tensor.dtype}")
    channels = tensor.shape[-3] if tensor.ndim in (3, 4) else 1
    if tensor.ndim not in (2, 3, 4) or channels not in (1, 3) or 0 in tensor.shape[-3:]:
        raise UserError(f"torch images must be (H, W), (1, H, W), (3, H, W) or a batch, got {tuple(tensor.shape)}")
    whole = tensor.detach().cpu()
    if tensor.is_floating_point():
        if not bool(((whole >= 0) & (whole <= 1)).all()):
            raise UserError("torch images of floating point must lie in 0..1: pass them before any normalisation")
        whole = (whole * 255).round().to(torch.uint8)
    images = whole if whole.ndim == 4 else whole.reshape(1, channels, *whole.shape[-2:])
    return [(image[0] if channels == 1 else image.permute(1, 2, 0)).contiguous().numpy() for image in images]


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    picture = image.copy()
    picture.thumbnail((side, side), reducing_gap=1.0)  # a third of the default's time; this is only looked at
    return picture
