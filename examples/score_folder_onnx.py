"""Score a folder of pictures with an exported detector: onnxruntime, NumPy and Pillow, nothing else.

    python score_folder_onnx.py detector.onnx FOLDER > scores.csv

Pictures are read as `moleflow predict` reads them: EXIF orientation, grey, palettes and 16 bits are
heeded. Left out are what it does with files that cannot be read (here they end the program), floating-point TIFF,
regions and overlays.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def read(path: Path, side: int, view: str = "crop") -> np.ndarray:
    """The picture as the program takes it: upright RGB; its central square, or squeezed as a whole to the square."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits
        pixels = np.asarray(image, dtype=np.float64) * (255 / 65535)
        image = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
    image = image.convert("RGB")
    if view == "whole":
        return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def main(model: str, folder: str) -> None:
    session = onnxruntime.InferenceSession(model)
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    seen, labels = facts["moleflow.input"], facts["moleflow.labels"]
    side, view = seen["image_size"], seen.get("view", "crop")  # a file older than the option sees the central square
    products = {task["task_id"]: " ".join(task["class_names"]) for task in facts["moleflow.calibration"]["tasks"]}
    table = csv.writer(sys.stdout)
    table.writerow(["path", "label", "score", "calibrated", "product"])
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES):
        names = ["label", "score", "calibrated", "task_id"]
        label, score, calibrated, task = (v[0] for v in session.run(names, {"images": read(path, side, view)[None]}))
        table.writerow([path, labels[label], score, calibrated, products[task]])


if __name__ == "__main__":
    main(*sys.argv[1:])
