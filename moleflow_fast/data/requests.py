"""What decoding processes are asked for. They import this module, Pillow and NumPy, and no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from . import decoding, framing
from .data_error import DataError
from .decoding import has_frames
from .drawn_mask import DrawnMask
from .tiling import Tiling

_MOST, _NEARLY_ALL = 0.5, 0.9  # of a picture: a mask that marks more is named; one that marks more still is refused


class Note(str):
    """What is odd about a file that can be used all the same; among the problems of an answer that has its bytes."""

    __slots__ = ()


class Elongated(Note):
    """Of a picture that is not nearly square: its size as the file has it, "800 x 200"."""

    __slots__ = ()

    @property
    def size(self) -> tuple[int, int]:
        width, height = map(int, self.split(" x "))
        return width, height


@dataclass(frozen=True)
class Answer:
    """Bytes in the shapes that were asked for, or what is wrong with the files."""

    arrays: tuple[np.ndarray, ...] = ()
    problems: tuple[str, ...] = ()


class Request(Protocol):
    """Something to be made of files, by any process."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the arrays of a sound answer, all uint8."""

    def answer(self) -> Answer: ...


@dataclass(frozen=True)
class Picture:
    """An image file as a backbone sees it, RGB (3, crop, crop), turned.

    Under the view "crop" its short side goes to `size` and the centre is cropped; "whole" squeezes it to the square;
    under "tiles" it is the square `tile` of its `Tiling`.
    """

    path: Path
    size: int
    crop: int
    angle: float = 0.0  # degrees
    view: str = "crop"
    tile: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.crop, self.crop)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.shape,)

    def answer(self) -> Answer:
        if self.view == "tiles":
            return _read(self._of_tile)
        return _read(lambda: self.pixels(decoding.load_image(self.path)))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Of the file's own image, in RGB."""
        if self.view == "whole":
            squeezed = image.resize((self.crop, self.crop), Image.Resampling.LANCZOS)
            return channels_first(framing.turned(squeezed, self.angle))
        return channels_first(framing.framed(image, self.size, self.crop, Image.Resampling.LANCZOS, self.angle))

    def _of_tile(self) -> np.ndarray:
        tiling, strip = _strip(self.path, self.path.stat().st_mtime_ns, self.crop)
        return channels_first(framing.turned(tiling.square(strip, self.tile), self.angle))


@dataclass(frozen=True)
class Mask:
    """A mask as its image is seen, (crop, crop) of 0 and 1; or all of it, squeezed to a canvas."""

    path: Path | DrawnMask
    size: int
    crop: int
    canvas: tuple[int, int] | None = None  # (width, height)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.canvas[::-1] if self.canvas else (self.crop, self.crop)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.shape,)

    def answer(self) -> Answer:
        return _read(lambda: self.pixels(decoding.load_mask(self.path)))

    def pixels(self, mask: Image.Image) -> np.ndarray:
        """Of the file's own mask, in mode L."""
        nearest = Image.Resampling.NEAREST
        seen = mask.resize(self.canvas, nearest) if self.canvas else framing.framed(mask, self.size, self.crop, nearest)
        return (np.asarray(seen) != 0).astype(np.uint8)


@dataclass(frozen=True)
class Frame:
    """How the images and masks of a data set are seen.

    Args:
        size: short side of an image, pixels.
        crop: side of the central square that is taken of it.
        mask: side of the same square in masks.
        view: one of `config.learning_options.VIEWS`. As one square a picture in tiles is seen as a whole.
    """

    size: int
    crop: int
    mask: int
    view: str = "crop"

    @property
    def square(self) -> Frame:
        """Where a picture is to be seen as one square."""
        return replace(self, view="whole") if self.view == "tiles" else self

    def picture_of(self, path: Path, angle: float = 0.0) -> Picture:
        return Picture(path, self.size, self.crop, angle, self.square.view)

    def mask_of(self, path: Path | DrawnMask) -> Mask:
        """Under "tiles" in the shape of its picture, short side to `mask`; a file is opened for its size then."""
        canvas = None
        if self.view == "whole":
            canvas = (self.mask, self.mask)
        if self.view == "tiles":
            size = decoding.upright_size(path) if isinstance(path, Path) else path.size
            canvas = framing.scaled(size, self.mask)
        return Mask(path, round(self.mask * self.size / self.crop), self.mask, canvas)

    def tiling_of(self, path: Path) -> Tiling:
        """Of a file, whose size is read.

        Raises:
            DataError: see `decoding.upright_size`.
        """
        return Tiling(decoding.upright_size(path), self.crop)

    def tile_of(self, path: Path, index: int, angle: float = 0.0) -> Picture:
        return Picture(path, self.crop, self.crop, angle, "tiles", index)


@dataclass(frozen=True)
class FileCheck:
    """Whether an image and its mask can be used, and what is seen of them where that is wanted, from one reading."""

    path: Path
    mask_path: Path | DrawnMask | None = None
    picture: Picture | None = None
    mask: Mask | None = None
    published: bool = False
    """Of a data set whose masks are known to be right."""
    cropped: bool = False
    """Whether a centre crop is all that is seen of it: then a long picture is noted."""

    @property
    def pixels(self) -> tuple[Picture | Mask, ...]:
        """What a sound answer's arrays answer besides."""
        return tuple(request for request in (self.picture, self.mask) if request is not None)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(request.shape for request in self.pixels)

    def answer(self) -> Answer:
        try:
            return self._answer()
        except DataError as error:
            return Answer(problems=(str(error),))

    def _answer(self) -> Answer:
        size = decoding.stored_size(self.path)
        framing.require_ordinary_shape(size, self.path)
        image = self._image()
        seen = () if image is None or self.picture is None else (self.picture.pixels(image),)
        notes: tuple[str, ...] = ()
        if self.cropped and framing.elongation(size) > framing.NEARLY_SQUARE:
            notes += (Elongated(f"{size[0]} x {size[1]}"),)
        if has_frames(self.path):
            notes += (Note(f"{self.path}: several frames or pages; the first is used"),)
        if self.mask_path is None:
            return Answer(seen, notes)
        mask = decoding.load_mask(self.mask_path)
        problem = self._problem_of(mask, decoding.upright_size(self.path) if image is None else image.size)
        found = (*notes, *((problem,) if problem else ()))
        if any(not isinstance(one, Note) for one in found):
            return Answer(problems=found)
        return Answer(seen if self.mask is None else (*seen, self.mask.pixels(mask)), found)

    def _image(self) -> Image.Image | None:
        """Decoded where it is wanted, else read through."""
        if self.picture is not None:
            return decoding.load_whole(self.path)
        decoding.verify(self.path)
        return None

    def _problem_of(self, mask: Image.Image, size: tuple[int, int]) -> str | None:
        if mask.size != size:
            return (
                f"{self.mask_path}: {mask.width}x{mask.height} pixels, but {self.path} has {size[0]}x{size[1]}; "
                "export the mask at the size of its image"
            )
        share = mask.histogram()[255] / (mask.width * mask.height)
        if share == 0:
            return (
                f"{self.mask_path}: marks no pixel, though {self.path} is labelled defective; draw the defect, not in "
                f"a JPEG if it holds class numbers ({self._values})"
            )
        if share > (_NEARLY_ALL if self.published else _MOST):
            return self._covers(share)
        return None

    def _covers(self, share: float) -> str:
        text = f"{self.mask_path}: marks {share:.0%} of the picture ({self._values})"
        whole = share == 1 and " and " not in self._values and "," not in self._values
        if self.published or whole or share <= _NEARLY_ALL:
            return Note(f"{text}; if it is inverted, or 0 is not its background, save it with 0 for what is normal")
        return f"{text}: it is inverted, or 0 is not its background; save it with 0 for what is normal"

    @property
    def _values(self) -> str:
        assert self.mask_path is not None
        return f"its values: {decoding.mask_values(self.mask_path)}"


AnyRequest = TypeVar("AnyRequest", bound=Request)


def bytes_of(request: Request) -> int:
    """Of a sound answer's arrays."""
    return sum(math.prod(shape) for shape in request.shapes)


def placed(requests: Sequence[AnyRequest]) -> list[tuple[int, AnyRequest]]:
    """Each with the first byte of its arrays, where all lie one after another."""
    ends = itertools.accumulate(map(bytes_of, requests), initial=0)
    return list(zip(ends, requests, strict=False))


def channels_first(image: Image.Image) -> np.ndarray:
    """(3, H, W) of an image in RGB."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


@lru_cache(maxsize=1)
def _strip(path: Path, _modified: int, side: int) -> tuple[Tiling, Image.Image]:
    """Kept for the next square: those of a file are asked for one after another."""
    image = decoding.load_image(path)
    tiling = Tiling(image.size, side)
    return tiling, tiling.resized(image, Image.Resampling.LANCZOS)


def _read(read: Callable[[], np.ndarray]) -> Answer:
    try:
        return Answer((read(),))
    except DataError as error:
        return Answer(problems=(str(error),))
