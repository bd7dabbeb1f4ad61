"""Six synthetic products, drawn with NumPy and Pillow: their normal variation and their defects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.float64]  # (S, S, 3) or (S, S), 0..255
Drawing = Callable[[Generator, int], Pixels]
Defect = Callable[[Generator, Pixels], Pixels]


@dataclass(frozen=True)
class Scene:
    """A product: `draw` makes a normal one, each of `defects` spoils it."""

    draw: Drawing
    defects: dict[str, Defect]
    noise: float = 3.0


def add_noise(rng: Generator, image: Pixels, sigma: float) -> NDArray[np.uint8]:
    """Sensor noise and a little exposure variation, to 8 bits."""
    exposed = image * rng.uniform(0.95, 1.05)
    return np.clip(exposed + rng.normal(0, sigma, image.shape), 0, 255).round().astype(np.uint8)


# -- shapes ------------------------------------------------------------------------------------------


def _grid(size: int) -> tuple[Pixels, Pixels]:
    y, x = np.mgrid[0:size, 0:size]
    return y.astype(np.float64), x.astype(np.float64)


def _smooth_noise(rng: Generator, size: int, cell: int) -> Pixels:
    """Blobs of about `cell` pixels, standard deviation near 1."""
    coarse = rng.normal(size=(size // cell + 2, size // cell + 2))
    image = Image.fromarray(coarse.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float64)


def _blob(rng: Generator, size: int, radius: float, centre: tuple[float, float] | None = None) -> Pixels:
    """Coverage 0..1 of an irregular round spot."""
    y, x = _grid(size)
    cy, cx = centre or tuple(rng.uniform(radius * 1.6, size - radius * 1.6, 2))
    angle = np.arctan2(y - cy, x - cx)
    phase = rng.uniform(0, 2 * np.pi, 3)
    edge = radius * (1 + sum(0.18 * np.sin((k + 2) * angle + phase[k]) for k in range(3)))
    return np.clip(edge - np.hypot(y - cy, x - cx) + 0.5, 0, 1)


def _line(rng: Generator, size: int, length: float, width: int, wiggle: float = 0.0) -> Pixels:
    """Coverage 0..1 of a scratch or a crack."""
    scale = 4
    angle = rng.uniform(0, np.pi)
    middle = rng.uniform(0.3, 0.7, 2) * size
    steps = np.linspace(-0.5, 0.5, 9) * length
    across = np.cumsum(rng.normal(0, wiggle, 9)) if wiggle else np.zeros(9)
    xs = middle[0] + steps * np.cos(angle) - across * np.sin(angle)
    ys = middle[1] + steps * np.sin(angle) + across * np.cos(angle)
    canvas = Image.new("L", (size * scale, size * scale))
    ImageDraw.Draw(canvas).line(
        [(float(x) * scale, float(y) * scale) for x, y in zip(xs, ys, strict=True)], fill=255, width=width * scale
    )
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float64) / 255


def _blend(image: Pixels, coverage: Pixels, colour: float | tuple[float, float, float]) -> Pixels:
    weight = coverage[..., None] if image.ndim == 3 else coverage
    return image * (1 - weight) + weight * np.asarray(colour, dtype=np.float64)


def _canvas(image: Pixels) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return picture, ImageDraw.Draw(picture)


def _pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float64)


# -- textures ----------------------------------------------------------------------------------------


def _fabric(rng: Generator, size: int) -> Pixels:
    y, x = _grid(size)
    phase = rng.uniform(0, 2 * np.pi, 2)
    weave = np.sin(2 * np.pi * x / 8 + phase[0]) * np.sign(np.sin(2 * np.pi * y / 16 + phase[1]))
    weave += 0.8 * np.sin(2 * np.pi * y / 8 + phase[1])
    shade = 18 * weave + 4 * _smooth_noise(rng, size, 40)
    return np.stack([70 + shade * 0.7, 95 + shade * 0.9, 150 + shade], axis=-1)


def _fabric_hole(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, _blob(rng, len(image), rng.uniform(7, 13)), (18, 16, 20))


def _fabric_stain(rng: Generator, image: Pixels) -> Pixels:
    stain = _blob(rng, len(image), rng.uniform(12, 20))[..., None]
    return image * (1 - stain) + stain * (image * np.array([0.9, 0.7, 0.4]) + np.array([45.0, 20.0, 0.0]))


def _fabric_thread(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, _line(rng, len(image), rng.uniform(45, 90), 3, wiggle=3.0), (225, 220, 205))


def _wood(rng: Generator, size: int) -> Pixels:
    y, x = _grid(size)
    bend = 6 * _smooth_noise(rng, size, 60)
    rings = np.sin(2 * np.pi * (x + bend + 0.06 * y) / rng.uniform(13, 16) + rng.uniform(0, 2 * np.pi))
    fibre = np.asarray(
        Image.fromarray(rng.normal(0, 1, (size // 16 + 1, size)).astype(np.float32)).resize((size, size)), np.float64
    )
    shade = 16 * rings + 7 * fibre
    return np.stack([176 + shade, 128 + 0.85 * shade, 84 + 0.6 * shade], axis=-1)


def _wood_knot(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, 0.9 * _blob(rng, len(image), rng.uniform(8, 14)), (70, 42, 24))


def _wood_scratch(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, 0.85 * _line(rng, len(image), rng.uniform(50, 100), 3), (232, 205, 168))


def _wood_paint(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, 0.9 * _blob(rng, len(image), rng.uniform(7, 12)), (190, 30, 40))


def _brushed_metal(rng: Generator, size: int) -> Pixels:
    lines = np.asarray(
        Image.fromarray(rng.normal(0, 1, (size, size // 24 + 1)).astype(np.float32)).resize((size, size)), np.float64
    )
    return 138 + 13 * lines + 5 * _smooth_noise(rng, size, 50)


def _metal_scratch(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, 0.9 * _line(rng, len(image), rng.uniform(50, 100), 2), float(rng.choice([35.0, 240.0])))


def _metal_dent(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    radius = rng.uniform(9, 15)
    centre = tuple(rng.uniform(0.2, 0.8, 2) * size)
    y, x = _grid(size)
    inside = np.hypot(y - centre[0], x - centre[1]) < radius
    return image + inside * 75 * ((y - centre[0]) + (x - centre[1])) / (1.4 * radius)


def _metal_rust(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    grains = _blob(rng, size, rng.uniform(14, 20)) * (_smooth_noise(rng, size, 4) > 0)
    return _blend(image, 0.8 * grains, 55.0)


# -- objects -----------------------------------------------------------------------------------------


def _tablet(rng: Generator, size: int) -> Pixels:
    y, x = _grid(size)
    cy, cx = size / 2 + rng.normal(0, 2, 2)
    angle = rng.uniform(-0.25, 0.25)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    distance = np.hypot(u, v) / (0.36 * size)
    dome = np.clip((1 - distance) * 0.36 * size, 0, 1)
    shade = 205 + 28 * np.sqrt(np.clip(1 - distance**2, 0, 1)) - 40 * np.exp(-((v / 2.5) ** 2))
    background = 48 + 4 * _smooth_noise(rng, size, 60)
    return background * (1 - dome) + dome * (shade + 2 * _smooth_noise(rng, size, 5))


def _tablet_crack(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, 0.9 * _line(rng, len(image), rng.uniform(35, 60), 2, wiggle=3.0) * (image > 120), 90.0)


def _tablet_chip(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    angle = rng.uniform(0, 2 * np.pi)
    centre = (size * (0.5 + 0.35 * np.sin(angle)), size * (0.5 + 0.35 * np.cos(angle)))
    return _blend(image, _blob(rng, size, rng.uniform(9, 15), centre) * (image > 120), 52.0)


def _tablet_spot(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    spot = _blob(rng, size, rng.uniform(5, 9), tuple(rng.uniform(0.32, 0.68, 2) * size))
    return _blend(image, 0.8 * spot, 70.0)


def _gasket(rng: Generator, size: int) -> Pixels:
    y, x = _grid(size)
    cy, cx = size / 2 + rng.normal(0, 1.5, 2)
    radius = np.hypot(y - cy, x - cx)
    ring = np.clip(0.40 * size - radius, 0, 1) * np.clip(radius - 0.25 * size, 0, 1)
    image = np.stack([np.full((size, size), c) for c in (212.0, 206.0, 196.0)], axis=-1)
    image += 3 * _smooth_noise(rng, size, 50)[..., None]
    sheen = 22 * np.cos(np.arctan2(y - cy, x - cx) - rng.uniform(0.5, 1.0))
    rubber = np.stack([45 + sheen, 62 + sheen, 58 + sheen], axis=-1)
    image = image * (1 - ring[..., None]) + rubber * ring[..., None]
    turn = rng.uniform(0, 2 * np.pi)
    for k in range(6):
        a = turn + k * np.pi / 3
        hole = np.clip(
            0.035 * size - np.hypot(y - cy - 0.325 * size * np.sin(a), x - cx - 0.325 * size * np.cos(a)), 0, 1
        )
        image = _blend(image, hole, (212, 206, 196))
    return image


def _on_ring(rng: Generator, size: int) -> tuple[float, float]:
    angle = rng.uniform(0, 2 * np.pi)
    return (size * (0.5 + 0.325 * np.sin(angle)), size * (0.5 + 0.325 * np.cos(angle)))


def _gasket_cut(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    y, x = _grid(size)
    at, width = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.14)
    turned = np.angle(np.exp(1j * (np.arctan2(y - size / 2, x - size / 2) - at)))
    cut = (np.abs(turned) < width) & (image[..., 0] < 130)
    return _blend(image, cut.astype(np.float64), (210, 204, 194))


def _gasket_dirt(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    return _blend(image, 0.9 * _blob(rng, size, rng.uniform(6, 11), _on_ring(rng, size)), (186, 150, 60))


def _gasket_burr(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    angle = rng.uniform(0, 2 * np.pi)
    centre = (size * (0.5 + 0.42 * np.sin(angle)), size * (0.5 + 0.42 * np.cos(angle)))
    return _blend(image, _blob(rng, size, rng.uniform(6, 10), centre), (52, 66, 62))


_PADS = [(0.22 + 0.28 * column, 0.2 + 0.2 * row) for column in range(3) for row in range(4)]
_COPPER = (205, 164, 70)
_MASK_GREEN = (24, 92, 58)


def _circuit(rng: Generator, size: int) -> Pixels:
    board = np.stack([np.full((size, size), float(c)) for c in _MASK_GREEN], axis=-1)
    board += 3 * _smooth_noise(rng, size, 30)[..., None]
    picture, draw = _canvas(board)
    dx, dy = rng.normal(0, 1.0, 2)
    place = [(px * size + dx, py * size + dy) for px, py in _PADS]
    for (x0, y0), (x1, y1) in zip(place[:8], place[4:], strict=True):
        draw.line([(x0, y0), (x1, y1)], fill=(120, 140, 62), width=3)
    for x, y in place:
        r = 0.045 * size
        draw.ellipse([x - r, y - r, x + r, y + r], fill=_COPPER)
        draw.ellipse([x - r / 3, y - r / 3, x + r / 3, y + r / 3], fill=(20, 20, 20))
    return _pixels(picture)


def _circuit_missing_pad(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    px, py = _PADS[rng.integers(len(_PADS))]
    y, x = _grid(size)
    return _blend(image, np.clip(0.065 * size - np.hypot(y - py * size, x - px * size), 0, 1), _MASK_GREEN)


def _circuit_bridge(rng: Generator, image: Pixels) -> Pixels:
    size = len(image)
    column, row = rng.integers(3), rng.integers(3)
    (x, y0), (_, y1) = _PADS[4 * column + row], _PADS[4 * column + row + 1]
    picture, draw = _canvas(image)
    draw.line([(x * size, y0 * size), (x * size + rng.uniform(-3, 3), y1 * size)], fill=(214, 214, 205), width=6)
    changed = np.any(np.asarray(picture) != np.clip(image, 0, 255).astype(np.uint8), axis=-1)
    return _blend(image, changed.astype(np.float64), (214, 214, 205))


def _circuit_burn(rng: Generator, image: Pixels) -> Pixels:
    return _blend(image, 0.85 * _blob(rng, len(image), rng.uniform(9, 15)), (28, 20, 12))


SCENES: dict[str, Scene] = {
    "fabric": Scene(_fabric, {"hole": _fabric_hole, "stain": _fabric_stain, "thread": _fabric_thread}),
    "wood": Scene(_wood, {"knot": _wood_knot, "paint": _wood_paint, "scratch": _wood_scratch}),
    "brushed_metal": Scene(_brushed_metal, {"dent": _metal_dent, "rust": _metal_rust, "scratch": _metal_scratch}),
    "tablet": Scene(_tablet, {"chip": _tablet_chip, "crack": _tablet_crack, "spot": _tablet_spot}),
    "gasket": Scene(_gasket, {"burr": _gasket_burr, "cut": _gasket_cut, "dirt": _gasket_dirt}),
    "circuit": Scene(_circuit, {"bridge": _circuit_bridge, "burn": _circuit_burn, "missing_pad": _circuit_missing_pad}),
}
