"""Gigabytes of image files as many cameras write them, and files that only pretend to be images, in seconds.

Some sixty bodies are encoded once; every file is one of them with a tail of its own, which decoders do not read.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BAD_SHARE = 0.15
SHAPES = ((4, 3), (3, 2), (1, 1), (2, 3), (16, 9))
STEMS = ("part", "sp ace", "com,ma", "漢字é", "new\nline", "-dash", "=sum", "quo'te\"", "dots..", "<b>&amp;")
_ORIENTATION, _LYING = 0x0112, 6

Save = Callable[[Image.Image, Any], None]


@dataclass(frozen=True)
class Body:
    """What stands in a file."""

    suffix: str
    content: bytes


@dataclass(frozen=True)
class Written:
    """The files of a folder."""

    readable: frozenset[Path]
    unreadable: frozenset[Path]
    bytes: int

    def __len__(self) -> int:
        return len(self.readable) + len(self.unreadable)


def write_many(folder: Path, products: list[Path], size: float, megapixels: float, rounds: int, seed: int) -> Written:
    """Fill a new folder until it holds `size` bytes, good and bad files mixed.

    Args:
        products: small pictures, which the photographs show enlarged.
        megapixels: of the largest photograph; the smallest has a quarter.
        rounds: bodies of each kind.
    """
    draw = random.Random(seed)
    good = _good_bodies(products, megapixels, rounds, seed)
    bad = _bad_bodies(good)
    draw.shuffle(good)
    files: dict[bool, set[Path]] = {False: set(), True: set()}
    bodies = {False: itertools.cycle(good), True: itertools.cycle(bad)}
    written = 0
    for number in itertools.count():
        if written >= size:
            break
        is_bad = draw.random() < BAD_SHARE
        body = next(bodies[is_bad])
        path = _place(folder, number, body.suffix)
        content = body.content + struct.pack(">Q", number) if body.content else b""
        path.write_bytes(content)
        written += len(content)
        files[is_bad].add(path)
    if os.geteuid() != 0:  # the superuser may read everything
        files[True].add(_forbidden(folder, good[0]))
    return Written(frozenset(files[False]), frozenset(files[True]), written)


def _place(folder: Path, number: int, suffix: str) -> Path:
    """Now and then in a folder that is called like an image."""
    below = folder / "folder.png" if number % 10 == 0 else folder
    below.mkdir(parents=True, exist_ok=True)
    return below / f"{STEMS[number % len(STEMS)]} {number:06d}{suffix}"


def _forbidden(folder: Path, body: Body) -> Path:
    path = folder / f"forbidden{body.suffix}"
    path.write_bytes(body.content)
    path.chmod(0)
    return path


# -- good bodies ---------------------------------------------------------------------------------------


def _good_bodies(products: list[Path], megapixels: float, rounds: int, seed: int) -> list[Body]:
    """Photographs in every kind of file, and a single pixel."""
    kinds = [kind for kind in KINDS for _ in range(rounds)]
    rngs = [np.random.default_rng([seed, number]) for number in range(len(kinds))]

    def encode(kind: tuple[str, Save], rng: np.random.Generator) -> Body:
        suffix, save = kind
        stream = io.BytesIO()
        save(_photograph(products, megapixels, rng), stream)
        return Body(suffix, stream.getvalue())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(encode, kinds, rngs), _flat(1, 1)]


def _photograph(products: list[Path], megapixels: float, rng: np.random.Generator) -> Image.Image:
    """A product enlarged, with the noise of a sensor."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    unit = (1e6 * megapixels * rng.uniform(0.25, 1) / (shape[0] * shape[1])) ** 0.5
    width, height = round(shape[0] * unit), round(shape[1] * unit)
    with Image.open(products[rng.integers(len(products))]) as product:
        enlarged = np.asarray(product.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(0, 8, (256, 256, 1), dtype=np.uint8)
    everywhere = np.tile(noise, (height // 256 + 1, width // 256 + 1, 1))[:height, :width]
    return Image.fromarray(np.minimum(enlarged, 248) + everywhere)


def _flat(width: int, height: int) -> Body:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return Body(".png", stream.getvalue())


def _as(format: str, mode: str = "RGB", **options: Any) -> Save:
    return lambda image, stream: image.convert(mode).save(stream, format, **options)


def _sixteen_bits(format: str) -> Save:
    def save(image: Image.Image, stream: Any) -> None:
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(stream, format)

    return save


def _several(format: str, **options: Any) -> Save:
    """Pages of a TIFF, frames of an animation."""

    def save(image: Image.Image, stream: Any) -> None:
        image.save(stream, format, save_all=True, append_images=[Image.new("RGB", (64, 48))], **options)

    return save


def _turned(image: Image.Image, stream: Any) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = _LYING
    image.save(stream, "JPEG", quality=90, exif=exif)


KINDS: tuple[tuple[str, Save], ...] = (
    (".jpg", _as("JPEG", quality=90)),
    (".jpg", _as("JPEG", quality=95)),
    (".JPG", _as("JPEG", quality=98, subsampling=0)),
    (".jpeg", _as("JPEG", quality=90, progressive=True)),
    (".jpg", _as("JPEG", "L", quality=90)),
    (".jpg", _as("JPEG", "CMYK", quality=90)),
    (".jpg", _turned),
    (".png", _as("JPEG", quality=90)),
    (".png", _as("PNG", compress_level=1)),
    (".png", _as("PNG", "RGBA", compress_level=1)),
    (".PNG", _as("PNG", "P", compress_level=1)),
    (".png", _sixteen_bits("PNG")),
    (".png", _several("PNG", compress_level=1)),
    (".jpg", _several("GIF")),
    (".tif", _as("TIFF")),
    (".tiff", _as("TIFF", compression="tiff_lzw")),
    (".tif", _sixteen_bits("TIFF")),
    (".tif", _several("TIFF")),
    (".bmp", _as("BMP")),
    (".bmp", _as("BMP", "L")),
)


# -- bad bodies ----------------------------------------------------------------------------------------


def _bad_bodies(good: list[Body]) -> list[Body]:
    """None of which a decoder takes for a picture."""
    halves = [Body(body.suffix, body.content[: len(body.content) // 2]) for body in _one_of_each_format(good)]
    others = (
        Body(".png", b""),
        Body(".png", b"certainly no image\n"),
        Body(".jpg", bytes(range(256)) * 40),
        Body(".png", _bomb()),
        _flat(1, 4000),
        Body(".tif", b"II*\0"),
    )
    return [*halves, *others]


def _one_of_each_format(bodies: list[Body]) -> list[Body]:
    first = {body.content[:2]: body for body in reversed(bodies) if len(body.content) > 1000}
    return list(first.values())


def _bomb() -> bytes:
    """A PNG whose header claims 100,000 x 100,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((13, header), (0, b"IDAT"))
    framed = (struct.pack(">I", size) + chunk + struct.pack(">I", zlib.crc32(chunk)) for size, chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
