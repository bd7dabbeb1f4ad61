"""Images of noise with the class names and counts of MVTec AD, a class a colour so that it is told from others.

What images show decides one thing for speed: a class whose images the router sends elsewhere is scored again.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

Counts = Mapping[str, tuple[int, int]]

# Images: training, test (Bergmann et al., CVPR 2019, table 1).
MVTEC: Counts = {
    "bottle": (209, 83), "cable": (224, 150), "capsule": (219, 132), "carpet": (280, 117), "grid": (264, 78),
    "hazelnut": (391, 110), "leather": (245, 124), "metal_nut": (220, 115), "pill": (267, 167), "screw": (320, 160),
    "tile": (230, 117), "toothbrush": (60, 42), "transistor": (213, 100), "wood": (247, 79), "zipper": (240, 151),
}  # fmt: skip
FEW: Counts = {"bottle": (6, 4), "cable": (5, 3)}


def write(root: Path, classes: Counts, size: int) -> Path:
    """Half of the test images are defective: a bright square, and the mask of it."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda item: _write_class(root / item[0], *item[1], size), classes.items()))
    return root


def _write_class(folder: Path, train: int, test: int, size: int) -> None:
    rng = np.random.default_rng(train)
    brightest = rng.integers(60, 200, 3)
    parts = (("train", "good", train), ("test", "good", test // 2), ("test", "spot", test - test // 2))
    for split, kind, count in parts:
        for number in range(count):
            pixels = rng.integers(0, brightest, (size, size, 3), dtype=np.uint8)
            if kind == "spot":
                mask = np.zeros((size, size), np.uint8)
                mask[5:20, 7:30] = 255
                pixels[mask > 0] += 55
                _save(folder / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
            _save(folder / split / kind / f"{number:03d}.png", pixels)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)
