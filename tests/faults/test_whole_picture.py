"""Defects beyond the central square of pictures that are not square."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from moleflow_fast.cli.predict import main as predict
from moleflow_fast.cli.train import main as train
from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.check import check_dataset
from moleflow_fast.data.data_error import DataError
from moleflow_fast.detector.detector import Detector
from moleflow_fast.errors import UserError
from moleflow_fast.export.exporting import Request, export
from moleflow_fast.run.asked import parse_options
from moleflow_fast.run.directory import RunDirectoryError

LONG, SHORT = 320, 80
SPOT = (slice(10, 38), slice(10, 38))  # in the first tenth of the long side


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _grey(rng):
    return rng.integers(90, 130, (SHORT, LONG, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Wide pictures of one product, with a spot at their left end; one of the defective ones stands upright."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("parts")
    for i in range(6):
        _save(root / f"bolt/train/good/{i}.png", _grey(rng))
    for i in range(4):
        _save(root / f"bolt/test/good/{i}.png", _grey(rng))
    for i in range(3):
        pixels, mask = _grey(rng), np.zeros((SHORT, LONG), np.uint8)
        pixels[SPOT], mask[SPOT] = 250, 255
        if i == 0:
            pixels, mask = np.ascontiguousarray(pixels.transpose(1, 0, 2)), np.ascontiguousarray(mask.T)
        _save(root / f"bolt/test/spot/{i}.png", pixels)
        _save(root / f"bolt/ground_truth/spot/{i}_mask.png", mask)
    return root


@pytest.fixture(scope="module")
def run_of(parts, tmp_path_factory):
    """The run under a view, trained once."""
    logs = tmp_path_factory.mktemp("runs")

    def trained(view):
        path = logs / view
        if not path.exists():
            argv = f"--dataset folder --data_path {parts} --backbone_name resnet18 --random_backbone --img_size 64"
            argv += f" --num_epochs 1 --embed_dim 32 --heatmaps 3 --num_workers 0 --quiet --cache_dir {logs}/features"
            argv += f" --log_dir {logs} --experiment_name {view}" + (f" --view {view}" if view != "default" else "")
            assert train(argv.split()) == 0
        return path

    return trained


def _row(run):
    with (run / "evaluation" / "after_task_0.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row["ids"] == "routed")


@pytest.mark.parametrize("view", ["whole", "tiles"])
def test_a_defect_at_the_end_of_a_long_picture_is_found(run_of, parts, view):
    run = run_of(view)
    row = _row(run)
    assert float(row["image_auroc"]) == 1.0
    assert float(row["pixel_auroc"]) > 0.95
    assert (run / "heatmaps" / "bolt.png").stat().st_size > 0
    for i in (0, 1):
        result = Detector.load(run).predict([parts / f"bolt/test/spot/{i}.png"])[0]
        image = Image.open(parts / f"bolt/test/spot/{i}.png")
        assert result.anomaly_map.shape == image.size[::-1]
        assert np.isfinite(result.anomaly_map).all()
        y, x = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
        assert y < 60 and x < 60


def test_folders_are_seen_whole_and_published_data_sets_cropped() -> None:
    views = {
        "--dataset folder --data_path x": "whole",
        "--dataset folder --data_path x --preset line": "whole",
        "--dataset folder --data_path x --preset published": "crop",
        "--dataset folder --data_path x --view tiles": "tiles",
        "--dataset mvtec --data_path x": "crop",
        "--dataset visa --data_path x": "crop",
        "--dataset mvtec --data_path x --view whole": "whole",
        "": "crop",
    }
    assert {words: parse_options(words.split()).view for words in views} == views


def test_an_older_run_goes_on_with_the_crop_it_was_trained_with(tmp_path) -> None:
    words = f"--dataset folder --data_path x --log_dir {tmp_path} --experiment_name old".split()
    stored = parse_options([*words, "--view", "crop"]).to_json()
    del stored["view"]
    assert RunOptions.from_json(stored).view == "crop"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps({"options": stored}))
    assert parse_options([*words, "--resume"]).view == "crop"
    with pytest.raises(RunDirectoryError, match="--view: was 'crop', now 'tiles'"):
        parse_options([*words, "--resume", "--view", "tiles"])
    loaded = f"--dataset folder --data_path x --load_checkpoint {tmp_path / 'old'}".split()
    assert parse_options(loaded).view == "crop"


def test_what_a_crop_leaves_out_is_said_before_training_and_in_predict(run_of, parts, tmp_path, capsys, caplog) -> None:
    run = run_of("crop")
    said = capsys.readouterr()
    assert "class 'bolt': 13 pictures are longer than 1.1 : 1" in (said.out + said.err).replace("\n", " ")
    assert predict([str(run), str(parts / "bolt/test/spot"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    warnings = [r.getMessage() for r in caplog.records if "central square alone" in r.getMessage()]
    assert len(warnings) == 1
    assert "bolt" in warnings[0] and "75%" in warnings[0] and "--view tiles" in warnings[0]
    view = Detector.load(run).predict([parts / "bolt/test/spot/1.png"])[0].view
    assert (view.left, view.right) == (120, 200)


def test_a_page_and_pictures_of_tiles(run_of, parts, tmp_path) -> None:
    out = tmp_path / "out"
    words = [str(run_of("tiles")), str(parts / "bolt/test/spot"), "-o", str(out), "--html", "--quiet"]
    assert predict(words) == 0
    (overlay,) = out.glob("pictures/*-1-overlay.png")
    hot = np.asarray(Image.open(overlay)).astype(int)
    assert hot.shape[:2] == (SHORT, LONG)
    changed = np.abs(hot - np.asarray(Image.open(parts / "bolt/test/spot/1.png")).astype(int)).sum(-1)
    assert changed[SPOT].mean() > 4 * changed[:, LONG // 2 :].mean()
    assert (out / "index.html").stat().st_size > 0


def test_the_detector_scores_as_the_evaluation_did(run_of, parts) -> None:
    """Routes, scores and maps of a run's own test images, seen in tiles, picture after picture or in one call."""
    detector = Detector.load(run_of("tiles"), batch_size=3)
    files = sorted((parts / "bolt/test").rglob("*.png"))
    at_once = list(detector.stream(files))
    for file, streamed in zip(files, at_once, strict=True):
        (alone,) = detector.predict([file])
        assert alone.score == pytest.approx(streamed.score, rel=1e-4)
        np.testing.assert_allclose(alone.pixel_map, streamed.pixel_map, rtol=1e-3, atol=1e-2)
    good = [r.score for r in at_once if "good" in str(r.source)]
    assert max(good) < min(r.score for r in at_once if "spot" in str(r.source))


def test_a_very_long_picture_goes_through_in_batches(run_of) -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(90, 130, (160, 8000, 3)).astype(np.uint8)
    picture[20:100, 7000:7080] = 250
    detector = Detector.load(run_of("tiles"), batch_size=4)
    (result,) = detector.predict(Image.fromarray(picture))
    y, x = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
    assert abs(x - 7040) < 80 and abs(y - 60) < 80
    assert result.pixel_map.shape == (64, 3200)


def test_an_export_of_tiles_is_refused_with_the_remedy(run_of) -> None:
    with pytest.raises(UserError, match="--view tiles.*--view whole"):
        export(Request(run_of("tiles"), "torch"))


def test_the_limit_on_shapes_is_the_same_in_training_and_in_predicting(run_of, tmp_path) -> None:
    narrow = tmp_path / "data" / "bolt" / "train" / "good" / "narrow.png"
    _save(narrow, np.full((3, 330, 3), 100, np.uint8))
    _save(tmp_path / "data" / "bolt" / "test" / "good" / "0.png", np.full((30, 30, 3), 100, np.uint8))
    with pytest.raises(DataError) as refused:
        check_dataset("folder", tmp_path / "data", ["bolt"])
    (result,) = Detector.load(run_of("tiles")).predict([narrow])
    assert result.label == "error"
    assert result.error in str(refused.value)
    assert "330 x 3" in result.error and "100 times" in result.error
