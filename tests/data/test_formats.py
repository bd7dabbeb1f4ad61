"""Lists of images: each format is generated, read, checked, and damaged."""

import csv
import json

import numpy as np
import pytest
from data.builders import save, save_mask
from data.test_masks import as_text, run_lengths
from PIL import Image

from moleflow_fast.data import DataError, check_dataset, get_class_names, get_dataset_class

SMALL = {"img_size": 20, "crp_size": 20, "msk_size": 20}
BOX = (4, 5, 10, 12)
SIZE = (24, 20)


def box_mask():
    mask = np.zeros(SIZE[::-1], bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


def corners():
    left, top, right, bottom = BOX
    return [left, top, right - 1, top, right - 1, bottom - 1, left, bottom - 1]


def images(folder):
    """(name, split, defective) of images that are there."""
    rows = [(f"{s}{i}.png", s, d) for s, d in (("train", False), ("test", False), ("test", True)) for i in range(3)]
    rows = [(f"{'bad' if d else 'good'}_{name}", split, d) for name, split, d in rows]
    for name, _, _ in rows:
        save(folder / name)
    return rows


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def csv_set(root, **changes):
    rows = images(root / "pictures")
    root.joinpath("bolt.csv").parent.mkdir(exist_ok=True)
    with (root / "bolt.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Image", "label", "mask", "split"])
        for name, split, bad in rows:
            mask = f"masks/{name}" if bad else ""
            if bad:
                save_mask(root / mask, box=BOX)
            line = {"image": f"pictures/{name}", "label": "dent" if bad else "OK", "mask": mask, "split": split}
            table.writerow({**line, **changes}.values())
    return root


def coco_set(root, segmentation=None, **changes):
    folder = root / "bolt"
    rows = images(folder / "images")
    shapes = [[corners()], {"size": [20, 24], "counts": run_lengths(box_mask())}]
    shapes.append({"size": [20, 24], "counts": as_text(run_lengths(box_mask()))})
    for split in ("train", "test"):
        own = [(i, name, bad) for i, (name, s, bad) in enumerate(rows) if s == split]
        pictures = [{"id": i, "file_name": name, "width": 24, "height": 20, **changes} for i, name, _ in own]
        drawn = [{"id": i, "image_id": i, "category_id": 7} for i, _, bad in own if bad]
        for annotation, shape in zip(drawn, shapes, strict=False):
            annotation["segmentation"] = shape if segmentation is None else segmentation
        content = {"images": pictures, "annotations": drawn, "categories": [{"id": 7, "name": "dent"}]}
        write_json(folder / "annotations" / f"instances_{split}2017.json", content)
    return root


def datumaro_set(root, label_id=1):
    folder = root / "bolt"
    rows = images(folder / "images")
    labels = [{"name": "Normal"}, {"name": "dent"}]
    shape = {"type": "mask", "label_id": label_id, "rle": {"size": [20, 24], "counts": run_lengths(box_mask())}}
    polygon = {"type": "polygon", "label_id": label_id, "points": corners()}
    for split in ("train", "test"):
        items = []
        for i, (name, s, bad) in enumerate(rows):
            if s == split:
                whole = [{"type": "label", "label_id": 1 if bad else 0}]
                picture = {"path": name, **({"size": [20, 24]} if i % 2 else {})}
                found = whole + [shape if i % 2 else polygon] * bad
                items.append({"id": name, "image": picture, "annotations": found})
        content = {"categories": {"label": {"labels": labels}}, "items": items}
        write_json(folder / "annotations" / f"{split}.json", content)
    return root


def real_iad_set(root):
    content = {"meta": {"normal_class": "OK", "prefix": "bolt/"}, "train": [], "test": []}
    for name, split, bad in images(root / "bolt" / "S1"):
        mask = f"S1/{name[:-4]}_mask.png" if bad else None
        if bad:
            save_mask(root / "bolt" / mask, box=BOX)
        row = {"category": "bolt", "anomaly_class": "AK" if bad else "OK", "image_path": f"S1/{name}"}
        content[split].append({**row, "mask_path": mask})
    write_json(root / "realiad_jsons" / "bolt.json", content)
    return root


SETS = {"csv": csv_set, "coco": coco_set, "datumaro": datumaro_set, "real_iad": real_iad_set}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_list_gives_the_same_samples_as_folders(tmp_path, name, workers):
    root = SETS[name](tmp_path)
    assert get_class_names(name, root) == ["bolt"]
    report = check_dataset(name, root, ["bolt"], workers)
    assert report.images == 9 and report.warnings == []
    train, test = (get_dataset_class(name)(root, "bolt", train=t, **SMALL) for t in (True, False))
    assert [s.label for s in train.samples] == [0, 0, 0]
    assert sorted(s.label for s in test.samples) == [0, 0, 0, 1, 1, 1]
    for i, sample in enumerate(test.samples):
        mask = test.load_mask(i)[0].numpy()
        expected = box_mask()[:, 2:22] if sample.label else np.zeros((20, 20))
        assert np.array_equal(mask, expected), sample


def test_csv_with_classes_numbers_and_semicolons(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    table = tmp_path / "list.csv"
    table.write_text("image;label;split;class\na.png;0;train;nut\nb.png;1;test;nut\na.png;0;train;bolt\n")
    assert get_class_names("csv", table) == ["bolt", "nut"]
    report = check_dataset("csv", table, ["bolt", "nut"])
    assert report.images == 3 and any("'bolt' has no test images" in w for w in report.warnings)


def test_defects_in_the_training_split_are_named(tmp_path):
    root = csv_set(tmp_path)
    with (root / "bolt.csv").open("a") as table:
        table.write("pictures/bad_test0.png,dent,masks/bad_test0.png,train\n")
    (warning,) = check_dataset("csv", root, ["bolt"]).warnings
    assert "1 defective in the training split, not trained on" in warning and "bad_test0.png" in warning


@pytest.mark.parametrize(
    ("write", "name", "said"),
    [
        (lambda r: csv_set(r, split="later"), "csv", r"bolt.csv line 2: split 'later' is neither train nor test"),
        (lambda r: csv_set(r, label=""), "csv", r"bolt.csv line 2: label is empty"),
        (lambda r: csv_set(r, image="x.png"), "csv", r"bolt.csv line 2: its image .*x.png is missing"),
        (lambda r: csv_set(r, mask="x.png"), "csv", r"bolt.csv line 8: its mask .*x.png is missing"),
        (lambda r: (r / "a.csv").write_text("file\nx\n"), "csv", "a.csv: lacks the columns image, label, split"),
        (lambda r: coco_set(r, file_name=3), "coco", r"instances_test2017.json: images\[0\]: file_name must be text"),
        (lambda r: coco_set(r, width=None), "coco", r"images\[0\]: width must be a number, it is null"),
        (lambda r: coco_set(r, segmentation=[[1.0]]), "coco", "at least three corners"),
        (lambda r: coco_set(r, split="x"), "coco", r"images\[0\]: split 'x' is neither train nor test"),
        (lambda r: datumaro_set(r, label_id=9), "datumaro", r"items\[3\].annotations: label_id 9 is not among"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_field(tmp_path, write, name, said):
    write(tmp_path)
    with pytest.raises(DataError, match=said):
        check_dataset(name, tmp_path, ["bolt"])


@pytest.mark.parametrize("name", ["coco", "datumaro", "real_iad"])
def test_damaged_json_is_named(tmp_path, name):
    root = SETS[name](tmp_path)
    file = sorted(root.rglob("*.json"))[0]
    file.write_text(file.read_text()[:-5])
    with pytest.raises(DataError, match=f"{file.name}: cannot be read as JSON"):
        check_dataset(name, root, ["bolt"])


@pytest.mark.parametrize("name", SETS)
def test_a_folder_without_any_list_is_named(tmp_path, name):
    with pytest.raises(DataError, match=str(tmp_path)):
        get_class_names(name, tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path):
    root = csv_set(tmp_path)
    Image.new("L", (10, 10), 255).save(root / "masks/bad_test0.png")
    with pytest.raises(DataError, match="bad_test0.png: 10x10 pixels"):
        check_dataset("csv", root, ["bolt"])
