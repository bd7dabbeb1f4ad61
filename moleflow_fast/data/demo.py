"""python -m moleflow_fast.data.demo OUT: write the synthetic demo set in MVTec AD layout.

Six drawn products, textures and objects, grey and colour, with three defect types each and exact masks. It shows how
the program works; figures measured on it say nothing about real inspection.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from moleflow_fast.system.locks import alone

from .data_error import DataError
from .demo_scenes import SCENES, Scene, add_noise

MARKER = "demo.json"
VERSION = 1
# A defect counts where it changes a pixel by more than the sensor noise hides.
VISIBLE = 10.0
_PATIENCE = 600.0  # seconds: another run may be writing the same set

_NOTE = "SYNTHETIC images, drawn by moleflow_fast.data.demo. Not photographs; no figure measured on them is a result.\n"


def write_demo(
    out: str | Path, train: int = 40, test_good: int = 10, test_defective: int = 4, size: int = 160, seed: int = 0
) -> Path:
    """Write the demo set, unless it is already there; the same arguments give the same pixels.

    Args:
        out: its folder; must be new, empty, or a demo set.
        train: normal training images of each class.
        test_good: normal test images of each class.
        test_defective: test images of each of the three defect types of each class.
        size: side of the images, pixels.

    Raises:
        DataError: the folder holds something else.
    """
    out = Path(out)
    wanted = {
        "version": VERSION, "train": train, "test_good": test_good, "test_defective": test_defective, "size": size,
        "seed": seed,
    }  # fmt: skip
    if _is_complete(out, wanted):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with alone(out.parent / f".{out.name}.lock", f"{out}", patience=_PATIENCE):
        if not _is_complete(out, wanted):
            _write(out, wanted)
    return out


def _write(out: Path, wanted: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        fresh = Path(folder) / out.name
        for name, scene in SCENES.items():
            rng = np.random.default_rng([wanted["seed"], zlib.crc32(name.encode())])
            _write_class(fresh / name, scene, rng, wanted)
        (fresh / "README.txt").write_text(_NOTE)
        (fresh / MARKER).write_text(json.dumps(wanted))
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)


def is_demo(folder: Path) -> bool:
    """Whether `write_demo` wrote this folder."""
    return (folder / MARKER).is_file()


def _is_complete(out: Path, wanted: dict[str, int]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not is_demo(out):
        raise DataError(f"{out} exists and is no demo set: choose another folder, nothing was overwritten")
    return bool(json.loads((out / MARKER).read_text()) == wanted)


def _write_class(folder: Path, scene: Scene, rng: Generator, wanted: dict[str, int]) -> None:
    size = wanted["size"]
    for split, count in (("train", wanted["train"]), ("test", wanted["test_good"])):
        for i in range(count):
            _save(folder / split / "good" / f"{i:03d}.png", add_noise(rng, scene.draw(rng, size), scene.noise))
    for defect in scene.defects:
        for i in range(wanted["test_defective"]):
            image, mask = _defective(scene, defect, rng, size)
            _save(folder / "test" / defect / f"{i:03d}.png", image)
            _save(folder / "ground_truth" / defect / f"{i:03d}_mask.png", mask)


def _defective(scene: Scene, defect: str, rng: Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image and its mask: exactly the pixels that the defect changed visibly."""
    while True:
        normal = scene.draw(rng, size)
        spoilt = scene.defects[defect](rng, normal)
        change = np.abs(spoilt - normal)
        mask = (change.max(-1) if change.ndim == 3 else change) > VISIBLE
        if mask.sum() >= 30:  # a crack drawn beside the tablet is none
            return add_noise(rng, spoilt, scene.noise), mask.astype(np.uint8) * 255


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m moleflow_fast.data.demo", description=__doc__.split(": ", 1)[1])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--train", type=int, default=40, help="training images per class (default 40)")
    parser.add_argument("--test_good", type=int, default=10, help="normal test images per class (default 10)")
    parser.add_argument("--test_defective", type=int, default=4, help="test images per defect type (default 4)")
    parser.add_argument("--size", type=int, default=160, help="side of the images, pixels (default 160)")
    parser.add_argument("--seed", type=int, default=0, help="decides every pixel (default 0)")
    try:
        out = write_demo(**vars(parser.parse_args(argv)))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {', '.join(SCENES)} (synthetic)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
