import hashlib

import numpy as np
import pytest
from PIL import Image

from moleflow_fast.data import DataError, check_dataset, get_class_names
from moleflow_fast.data.demo import main, write_demo

SMALL = {"train": 2, "test_good": 1, "test_defective": 1, "size": 96}


def digest(root):
    files = sorted(p for p in root.rglob("*.png"))
    return hashlib.sha256(b"".join(str(p.relative_to(root)).encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "set", **SMALL)


def test_at_least_six_sound_classes_grey_and_colour(demo):
    names = get_class_names("folder", demo)
    assert len(names) >= 6
    warnings = check_dataset("folder", demo, names).warnings
    assert all("only 1 normal and 3 defective" in warning for warning in warnings)
    modes = {Image.open(demo / n / "train/good/000.png").mode for n in names}
    assert modes == {"L", "RGB"}
    assert all(len(list((demo / n / "ground_truth").iterdir())) >= 3 for n in names)


def test_it_says_that_it_is_synthetic(demo):
    assert "SYNTHETIC" in (demo / "README.txt").read_text()


def test_same_seed_same_pixels_another_seed_others(demo, tmp_path):
    assert digest(write_demo(tmp_path / "again", **SMALL)) == digest(demo)
    assert digest(write_demo(tmp_path / "other", **SMALL, seed=1)) != digest(demo)


def test_masks_cover_what_looks_unlike_its_surroundings(demo):
    image = np.asarray(Image.open(demo / "fabric/test/hole/000.png"), dtype=float).mean(-1)
    mask = np.asarray(Image.open(demo / "fabric/ground_truth/hole/000_mask.png")) > 0
    assert image[mask].mean() < 0.7 * image[~mask].mean() and 0.001 < mask.mean() < 0.2


def test_a_complete_set_is_left_alone_and_a_different_one_replaced(tmp_path):
    out = write_demo(tmp_path / "d", **SMALL)
    stamp = (out / "demo.json").stat().st_mtime_ns
    write_demo(out, **SMALL)
    assert (out / "demo.json").stat().st_mtime_ns == stamp
    write_demo(out, **{**SMALL, "train": 3})
    assert len(list((out / "fabric/train/good").iterdir())) == 3


def test_other_folders_are_never_overwritten(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no demo set"):
        write_demo(tmp_path / "mine", **SMALL)
    assert main([str(tmp_path / "mine")]) == 1
    assert "nothing was overwritten" in capsys.readouterr().err
    assert (tmp_path / "mine" / "photo.png").read_bytes() == b"x"


def test_command_writes_the_set(tmp_path, capsys):
    arguments = ["--train", "1", "--test_good", "1", "--test_defective", "1", "--size", "64"]
    assert main([str(tmp_path / "out"), *arguments]) == 0
    assert "synthetic" in capsys.readouterr().out and (tmp_path / "out/circuit/test/bridge/000.png").is_file()
