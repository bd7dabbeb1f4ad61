"""Defects beyond the central square of pictures that are not square."""

import numpy as np
import pytest
from PIL import Image

from moleflow_fast.detector.detector import Detector
from moleflow_fast.predict.__main__ import main as predict
from moleflow_fast.train import main as train

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
    import csv

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
