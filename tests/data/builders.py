"""Small data sets on disk."""

import csv

import numpy as np
from PIL import Image


def save(path, size=(24, 20), value=120, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    pixels = rng.integers(value // 2, value, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def save_mask(path, size=(24, 20), box=(4, 5, 10, 12), value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = value
    Image.fromarray(pixels).save(path)
    return path


def mvtec_layout(root, class_name="bolt", masks=True, train=3):
    folder = root / class_name
    for i in range(train):
        save(folder / "train" / "good" / f"{i:03d}.png")
    for i in range(2):
        save(folder / "test" / "good" / f"{i:03d}.png")
        save(folder / "test" / "dent" / f"{i:03d}.png")
        if masks:
            save_mask(folder / "ground_truth" / "dent" / f"{i:03d}_mask.png")
    return root


def visa_layout(root, class_name="candle"):
    rows = [("object", "split", "label", "image", "mask")]
    for split, label, count in (("train", "normal", 3), ("test", "normal", 2), ("test", "anomaly", 2)):
        for i in range(count):
            image = f"{class_name}/Data/Images/{label}/{split}{i}.JPG"
            mask = f"{class_name}/Data/Masks/Anomaly/{i}.png" if label == "anomaly" else ""
            save(root / image)
            if mask:
                save_mask(root / mask, value=3)
            rows.append((class_name, split, label, image, mask))
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root
