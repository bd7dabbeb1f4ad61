import os

import pytest
from data.builders import mvtec_layout, save
from PIL import Image

from moleflow_fast.data import DataError, check_dataset, get_class_names
from moleflow_fast.data.decoding import IMAGE_SUFFIXES
from moleflow_fast.data.finding import NO_DECODER, NO_IMAGE, NOWHERE, OWN, SPECIAL, SYSTEM, TAKEN, UNLISTED, find_images
from moleflow_fast.data.layouts import is_normal_name, layout


def names(folder):
    return [str(path.relative_to(folder)) for path in find_images(folder).images]


def left_out(folder):
    by_reason = find_images(folder).left_out.by_reason
    return {reason: sorted(path.name for path in paths) for reason, paths in by_reason.items()}


def counts(root, name="bolt"):
    find = layout("folder")
    train, test = find(root, name, True), find(root, name, False)
    assert not train.problems and not test.problems
    return len(train.samples), [sample.label for sample in test.samples].count(0), len(test.samples)


def test_images_at_any_depth_in_any_spelling(tmp_path):
    for name in ("b.png", "a.JPG", "cam2/c.Png", "cam2/deep/d.bmp"):
        save(tmp_path / name)
    assert names(tmp_path) == ["a.JPG", "b.png", "cam2/c.Png", "cam2/deep/d.bmp"]


@pytest.mark.parametrize("suffix", sorted({".webp", ".gif", ".jfif", ".avif"} & IMAGE_SUFFIXES))
def test_what_pillow_decodes_is_taken(tmp_path, suffix):
    image = Image.open(save(tmp_path / "a.png"))
    image.save(tmp_path / f"b{suffix}", format="JPEG" if suffix == ".jfif" else None)
    assert names(tmp_path) == ["a.png", f"b{suffix}"]


def test_all_that_is_not_taken_has_a_reason(tmp_path):
    save(tmp_path / "a.png")
    for name in ("Thumbs.db", ".DS_Store", "._a.png", "desktop.ini", "notes.txt", "b.HEIC"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("__MACOSX/a.png", "@eaDir/a.png", ".ipynb_checkpoints/a.png", "lost+found/a.png", "#recycle/a.png"):
        save(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone").symlink_to("/nowhere/else")
    assert names(tmp_path) == ["a.png"]
    assert left_out(tmp_path) == {
        SYSTEM: sorted(
            ["Thumbs.db", ".DS_Store", "._a.png", "desktop.ini", "__MACOSX", "@eaDir", ".ipynb_checkpoints"]
            + ["lost+found", "#recycle"]
        ),
        NO_IMAGE: ["notes.txt"],
        NO_DECODER: ["b.HEIC"],
        SPECIAL: ["pipe.png"],
        NOWHERE: ["gone"],
    }
    (line,) = find_images(tmp_path).left_out.said(tmp_path)
    assert "9 hidden or of the system" in line and "b.HEIC" in line and "save them as PNG" in line


def test_links_are_followed_once_and_never_upwards(tmp_path):
    inbox, store = tmp_path / "inbox", tmp_path / "store"
    save(inbox / "a.png")
    save(inbox / "cam/b.png")
    save(store / "c.png")
    (inbox / "today").symlink_to(store)
    (inbox / "again").symlink_to("cam")
    (inbox / "up").symlink_to("..")
    (inbox / "cam" / "loop").symlink_to(inbox)
    (inbox / "self").symlink_to("self")
    (inbox / "broken.png").symlink_to("/nowhere/x.png")
    assert names(inbox) == ["a.png", "broken.png", "cam/b.png", "today/c.png"]
    assert left_out(inbox)[TAKEN] == ["again", "loop", "up"]


def test_an_unreadable_folder_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "closed/b.png")
    scandir = os.scandir

    def refusing(place):  # tests run as root, who may list everything
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    assert names(tmp_path) == ["a.png"] and left_out(tmp_path) == {UNLISTED: ["closed"]}
    with pytest.raises(DataError, match="cannot be listed"):
        find_images(tmp_path / "closed")


def test_own_output_is_no_input(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "out/pictures/000001-a-overlay.png")
    (tmp_path / "out/scores.jsonl").write_text("")
    save(tmp_path / "runs/one/heatmaps/bolt.png")
    (tmp_path / "runs/one/checkpoints").mkdir()
    (tmp_path / "runs/one/config.json").write_text("{}")
    save(tmp_path / "pictures/b.png")
    assert names(tmp_path) == ["a.png", "pictures/b.png"] and left_out(tmp_path)[OWN] == ["one", "pictures"]


@pytest.mark.parametrize("name", ["good", "Good", "OK", "ok", "normal", "Defect-free", "no_defect"])
def test_names_of_normal_images(name):
    assert is_normal_name(name)


@pytest.mark.parametrize("name", ["not_ok", "NG", "bad", "abnormal", "goods", "spot", "broken"])
def test_names_of_defects(name):
    assert not is_normal_name(name)


@pytest.mark.parametrize("name", ["Good", "OK", "normal"])
def test_a_normal_folder_of_another_name_counts_as_normal_and_that_is_said(tmp_path, name):
    folder = mvtec_layout(tmp_path) / "bolt"
    (folder / "test/good").rename(folder / "test" / name)
    assert counts(tmp_path) == (3, 2, 4)
    assert any(f"test/{name} count as normal" in w for w in check_dataset("folder", tmp_path, ["bolt"]).warnings)


def test_nested_images_have_the_masks_that_lie_beside_or_above(tmp_path):
    folder = mvtec_layout(tmp_path) / "bolt"
    for split in ("train/good", "test/good", "test/dent"):
        (folder / split / "cam2").mkdir()
        (folder / split / "001.png").rename(folder / split / "cam2/001.png")
    assert counts(tmp_path) == (3, 2, 4)
    samples = layout("folder")(tmp_path, "bolt", False).samples
    flat = {sample.path.name: sample.mask_path.name for sample in samples if sample.label}
    assert flat == {"000.png": "000_mask.png", "001.png": "001_mask.png"}
    truth = folder / "ground_truth/dent"
    (truth / "cam2").mkdir()
    (truth / "001_mask.png").rename(truth / "cam2/001_mask.png")
    assert counts(tmp_path) == (3, 2, 4)


def test_two_images_of_one_stem_do_not_share_a_mask(tmp_path):
    folder = mvtec_layout(tmp_path) / "bolt"
    for cam in ("cam1", "cam2"):
        save(folder / "test/dent" / cam / "001.png")
    (folder / "test/dent/001.png").unlink()
    with pytest.raises(DataError, match="cam1/001_mask.png is missing"):
        check_dataset("folder", tmp_path, ["bolt"])


def test_products_in_other_spellings_are_taken(tmp_path):
    for name in ("bolt", "nut", "washer", "Cap"):
        mvtec_layout(tmp_path, name)
    (tmp_path / "nut/train/good").rename(tmp_path / "nut/train/Good")
    for path in (tmp_path / "washer/train/good").iterdir():
        path.rename(tmp_path / "washer/train" / path.name)
    (tmp_path / "washer/train/good").rmdir()
    for name in ("train", "test", "ground_truth"):
        (tmp_path / "Cap" / name).rename(tmp_path / "Cap" / name.title())
    classes = get_class_names("folder", tmp_path)
    assert classes == ["Cap", "bolt", "nut", "washer"]
    assert all(counts(tmp_path, name) == (3, 2, 4) for name in classes)


def test_what_looks_like_a_product_and_is_not_taken_is_said_with_the_remedy(tmp_path):
    mvtec_layout(tmp_path)
    save(tmp_path / "gear/001.png")
    save(tmp_path / "disc/train/batch1/001.png")
    mvtec_layout(tmp_path / "more", "nut")
    save(tmp_path / "loose.png")
    save(tmp_path / "bolt/validation/good/000.png")
    save(tmp_path / "bolt/train/scratch/000.png")
    text = "\n".join(check_dataset("folder", tmp_path, ["bolt"]).warnings)
    for said in (
        "gear: 1 images that are not used; to learn it as a class put its normal images into",
        "disc: 1 images that are not used; its train holds batch1 and no folder good",
        "more: 9 images that are not used; it holds the class folders nut: give it as --data_path",
        "1 outside of any class folder (loose.png)",
        "1 outside of train, test and ground_truth (validation/good/000.png)",
        "1 beside the normal images in train, not trained on",
    ):
        assert said in text
    assert counts(tmp_path) == (3, 2, 4)


def test_hidden_folders_are_no_defects(tmp_path):
    folder = mvtec_layout(tmp_path) / "bolt"
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        save(folder / "test" / name / "000.png")
        save(folder / "test/good" / name / "000.png")
    assert counts(tmp_path) == (3, 2, 4)


@pytest.mark.parametrize("name", ["mvtec", "mpdd"])
def test_published_sets_want_their_test_images(tmp_path, name):
    folder = mvtec_layout(tmp_path) / "bolt"
    (folder / "test").rename(folder / "tests")
    with pytest.raises(DataError, match="test: missing"):
        check_dataset(name, tmp_path, ["bolt"])


def test_a_class_of_training_images_alone_is_said(tmp_path):
    save(tmp_path / "bolt/train/good/a.png")
    report = check_dataset("folder", tmp_path, ["bolt"])
    assert report.images == 1 and any("'bolt' has no test images" in w for w in report.warnings)


def test_names_in_any_bytes_are_shown_as_text(tmp_path):
    mvtec_layout(tmp_path)
    odd = tmp_path / "bolt/train/good" / os.fsdecode(b"sch\xf6n.png")
    odd.write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        check_dataset("folder", tmp_path, ["bolt"])
    assert "sch\\xf6n.png" in str(caught.value).encode("utf-8").decode()
    odd.rename(odd.with_suffix(".txt"))
    text = "\n".join(check_dataset("folder", tmp_path, ["bolt"]).warnings)
    assert "sch\\xf6n.txt" in text.encode("utf-8").decode()
