import pytest
from data.builders import mvtec_layout, save, save_mask, visa_layout
from PIL import Image

from moleflow_fast.data import DataError, check_dataset


@pytest.mark.parametrize("workers", [0, 3])
def test_a_sound_data_set_is_counted(tmp_path, workers):
    mvtec_layout(tmp_path, "a")
    mvtec_layout(tmp_path, "b")
    report = check_dataset("folder", tmp_path, ["a", "b"], workers)
    assert report.images == 14 and len(report.warnings) == 2


def test_visa_is_checked_too(tmp_path):
    assert check_dataset("visa", visa_layout(tmp_path), ["candle"]).images == 7


def test_every_problem_of_every_class_is_listed_at_once(tmp_path):
    for name in ("a", "b"):
        mvtec_layout(tmp_path, name)
    (tmp_path / "a/train/good/001.png").write_bytes(b"\x89PNG")
    (tmp_path / "b/ground_truth/dent/000_mask.png").unlink()
    save_mask(tmp_path / "b/ground_truth/dent/001_mask.png", size=(10, 10), box=(1, 1, 3, 3))
    save_mask(tmp_path / "a/ground_truth/dent/000_mask.png", value=0)
    with pytest.raises(DataError) as caught:
        check_dataset("folder", tmp_path, ["a", "b"], 2)
    text = str(caught.value)
    assert "4 problems" in text and "nothing was started" in text
    assert "a/train/good/001.png" in text
    assert "000_mask.png is missing" in text
    assert "10x10 pixels" in text and "24x20" in text
    assert "marks no pixel" in text


def test_long_lists_are_cut(tmp_path):
    folder = mvtec_layout(tmp_path, "a", train=30) / "a"
    for path in (folder / "train/good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="30 problems[^$]*and 18 more"):
        check_dataset("folder", tmp_path, ["a"])


def test_oriented_image_and_upright_mask_agree(tmp_path):
    folder = mvtec_layout(tmp_path, "a") / "a"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "test/dent/000.png", size=(20, 24), exif=exif)
    check_dataset("folder", tmp_path, ["a"])


def test_odd_but_sound_sets_are_warned_about(tmp_path):
    mvtec_layout(tmp_path, "labels", masks=False)
    for kind, name in (("dent", "only_good"), ("good", "only_bad")):
        folder = mvtec_layout(tmp_path, name) / name
        for path in (folder / "test" / kind).iterdir():
            path.unlink()
    warnings = check_dataset("folder", tmp_path, ["labels", "only_good", "only_bad"]).warnings
    assert any("'labels' has no ground_truth" in w for w in warnings)
    assert any("'only_good' has no defective" in w for w in warnings)
    assert any("'only_bad' has no normal" in w for w in warnings)


def test_a_class_named_twice_is_refused(tmp_path):
    mvtec_layout(tmp_path, "a")
    with pytest.raises(DataError, match="named twice"):
        check_dataset("folder", tmp_path, ["a", "a"])
