from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data.builders import mvtec_layout, save, save_mask, visa_layout
from PIL import Image

from moleflow_fast.data import (
    FOLDER,
    MPDD,
    MVTEC,
    MVTEC_CLASS_NAMES,
    VISA,
    DataError,
    create_task_dataset,
    get_class_names,
    get_dataset_class,
)

SMALL = {"img_size": 16, "crp_size": 16, "msk_size": 16}


@pytest.mark.parametrize(("dataset", "name", "label"), [(MVTEC, "bottle", 0), (MVTEC, "pill", 8), (MPDD, "tubes", 5)])
def test_items_of_mvtec_layout(tmp_path, dataset, name, label):
    mvtec_layout(tmp_path, name)
    image, index, mask, stem, kind = dataset(tmp_path, name, train=True, **SMALL)[1]
    assert image.shape == (3, 16, 16) and mask.shape == (1, 16, 16) and not mask.any()
    assert (index, stem, kind) == (label, "001", "good")
    test = dataset(tmp_path, name, train=False, **SMALL)
    assert [(test[i][1], test[i][4]) for i in range(4)] == [(1, "dent"), (1, "dent"), (0, "good"), (0, "good")]
    assert set(test[0][2].unique().tolist()) == {0.0, 1.0} and not test[2][2].any()


def test_visa_reads_its_split_table_and_class_index_masks(tmp_path):
    visa_layout(tmp_path)
    train, test = (VISA(tmp_path, "candle", train=t, **SMALL) for t in (True, False))
    assert len(train) == 3 and [s.label for s in test.samples] == [0, 0, 1, 1]
    assert test[2][2].max() == 1 and test[2][4] == "anomaly" and test[0][4] == "good"


def test_image_is_normalised_lanczos_and_centre_cropped(tmp_path):
    folder = tmp_path / "bottle" / "train" / "good"
    save(folder / "a.png", size=(60, 30))
    image = MVTEC(tmp_path, "bottle", img_size=20, crp_size=16, msk_size=8)[0][0]
    resized = Image.open(folder / "a.png").resize((40, 20), Image.Resampling.LANCZOS).crop((12, 2, 28, 18))
    wanted = (np.asarray(resized) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(image.permute(1, 2, 0).numpy(), wanted, atol=1e-5)


def test_mask_shows_the_same_part_of_the_picture_as_a_cropped_image(tmp_path):
    folder = mvtec_layout(tmp_path) / "bolt"
    pixels = np.zeros((96, 96), dtype=np.uint8)
    pixels[24:48, 30:60] = 255
    for path in (folder / "test" / "dent" / "000.png", folder / "ground_truth" / "dent" / "000_mask.png"):
        Image.fromarray(pixels).save(path)
    image, _, mask, *_ = FOLDER(tmp_path, "bolt", train=False, img_size=96, crp_size=64, msk_size=64)[0]
    assert torch.equal((image[0] > 0).float(), mask[0])


def test_masks_may_lack_the_suffix_and_have_another_format(tmp_path):
    folder = mvtec_layout(tmp_path) / "bolt"
    (folder / "ground_truth" / "dent" / "000_mask.png").rename(folder / "ground_truth" / "dent" / "000.png")
    assert FOLDER(tmp_path, "bolt", train=False, **SMALL)[0][2].any()


def test_class_without_ground_truth_has_image_labels_only(tmp_path):
    mvtec_layout(tmp_path, masks=False)
    test = FOLDER(tmp_path, "bolt", train=False, **SMALL)
    assert not test.has_masks and [s.label for s in test.samples] == [1, 1, 0, 0] and not test[0][2].any()


def test_folder_discovers_classes_with_spaces_and_unicode(tmp_path):
    for name in ("zweite Dose", "Schraube größer", "a"):
        mvtec_layout(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert get_class_names("folder", tmp_path) == ["Schraube größer", "a", "zweite Dose"]
    assert FOLDER(tmp_path, "zweite Dose", **SMALL)[0][1] == 2
    assert get_class_names("mvtec", tmp_path) == MVTEC_CLASS_NAMES


def test_rotation_differs_at_every_access_for_training_only(tmp_path):
    mvtec_layout(tmp_path)
    train = FOLDER(tmp_path, "bolt", use_rotation_aug=True, **SMALL)
    first, *others = (train[0][0] for _ in range(9))  # of a few pixels two angles may look alike
    assert train.augmented and any(not torch.equal(first, other) for other in others)
    test = FOLDER(tmp_path, "bolt", train=False, use_rotation_aug=True, **SMALL)
    assert not test.augmented and torch.equal(test[0][0], test[0][0])


def test_own_transforms_replace_ours_and_are_never_cached(tmp_path):
    mvtec_layout(tmp_path)
    data = FOLDER(
        tmp_path, "bolt", False, lambda image: torch.ones(3, 2, 2), lambda mask: torch.full((1, 2, 2), 7.0), **SMALL
    )
    assert data[0][0].shape == (3, 2, 2) and data[0][2][0, 0, 0] == 7 and data.augmented


def test_transform_key_tells_sizes_apart(tmp_path):
    mvtec_layout(tmp_path)
    keys = {FOLDER(tmp_path, "bolt", img_size=s, crp_size=c).transform_key() for s, c in ((16, 16), (32, 32), (32, 16))}
    assert len(keys) == 3


def test_task_data_set_joins_classes_with_global_labels(tmp_path):
    for name in ("a", "b", "c"):
        mvtec_layout(tmp_path, name)
    args = SimpleNamespace(
        dataset="folder", data_path=tmp_path, img_size=16, msk_size=16, use_rotation_aug=False, rotation_degrees=180.0
    )
    data = create_task_dataset(args, ["c", "a"], {"a": 4, "b": 5, "c": 6}, train=True)
    assert [data[i][1] for i in range(6)] == [6, 6, 6, 4, 4, 4]
    tests = create_task_dataset(args, ["c", "a"], {"a": 4, "b": 5, "c": 6}, train=False)
    assert [s.label for s in tests.samples] == [1, 1, 0, 0] * 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "ground_truth/dent/001_mask.png").unlink(), "001.png: its mask .*001_mask.png is missing"),
        (lambda f: [p.unlink() for p in (f / "train/good").iterdir()], "no images in it"),
        (lambda f: f.rename(f.parent / "bolts"), "no such class; did you mean 'bolts'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, spoil, message):
    mvtec_layout(tmp_path)
    spoil(tmp_path / "bolt")
    with pytest.raises(DataError, match=message):
        for train in (True, False):
            FOLDER(tmp_path, "bolt", train=train)


def test_wrong_root_is_explained(tmp_path):
    mvtec_layout(tmp_path / "deep")
    with pytest.raises(DataError, match=f"did you mean {tmp_path / 'deep'}"):
        get_class_names("folder", tmp_path)
    with pytest.raises(DataError, match="itself a class folder"):
        MVTEC(tmp_path / "deep" / "bolt", "bottle")
    with pytest.raises(DataError, match="check --data_path"):
        MVTEC(tmp_path / "nowhere", "bottle")
    with pytest.raises(DataError, match="split_csv"):
        VISA(tmp_path, "candle")
    with pytest.raises(DataError, match="choose from mvtec"):
        get_dataset_class("imagenet")


def test_visa_problems_are_named(tmp_path):
    visa_layout(tmp_path)
    (tmp_path / "candle/Data/Masks/Anomaly/1.png").unlink()
    with pytest.raises(DataError, match="Masks/Anomaly/1.png is missing"):
        VISA(tmp_path, "candle", train=False)
    with pytest.raises(DataError, match="no train rows of class 'pcb1'; it has candle"):
        VISA(tmp_path, "pcb1")
    (tmp_path / "split_csv" / "1cls.csv").write_text("object,split\n1,2\n")
    with pytest.raises(DataError, match="lacks the columns image, label, mask"):
        VISA(tmp_path, "candle")


def test_upper_case_suffixes_and_hidden_files(tmp_path):
    folder = mvtec_layout(tmp_path) / "bolt"
    (folder / "train/good/000.png").rename(folder / "train/good/000.PNG")
    (folder / "train/good/._001.png").write_bytes(b"resource fork")
    save_mask(folder / "train/good/Thumbs.db.bmp")
    assert len(FOLDER(tmp_path, "bolt")) == 4
