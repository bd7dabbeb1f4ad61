"""Training images that are copies of one picture, or one alone: limits are those of one grey level, and it is said."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run.small_runs import run, write_data

from moleflow_fast import Detector
from moleflow_fast.config import AblationConfig

LINE = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False, router_covariance="pooled")
METHODS = {
    "line": LINE,
    "published": AblationConfig(),
    "class_ledoit_wolf": AblationConfig(router_covariance="class_ledoit_wolf"),
    "euclidean": AblationConfig(use_mahalanobis=False),
}
CASES = [("line", 6), ("line", 1), ("published", 6), ("class_ledoit_wolf", 6), ("euclidean", 6)]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product, all of whose good images are the same."""
    root = write_data(tmp_path_factory.mktemp("copies"))
    for other in ("fabric", "gasket"):
        shutil.rmtree(root / other)
    first, *rest = sorted(root.rglob("good/*.png"))
    for path in rest:
        shutil.copy(first, path)
    return root


@pytest.mark.parametrize(("method", "images"), CASES)
def test_what_differs_by_a_grey_level_is_normal(
    method: str, images: int, copies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Path(shutil.copytree(copies, tmp_path / "data"))
    for path in sorted((data / "wood" / "train" / "good").iterdir())[images:]:
        path.unlink()
    options: dict[str, Any] = {"ablation": METHODS[method], "num_epochs": 1, "heatmaps": 0}
    detector = Detector.load(run(data, tmp_path / "logs", **options).directory.path)
    assert "training images of wood hardly differ" in caplog.text and "train with images as the camera" in caplog.text
    picture = np.asarray(Image.open(next((data / "wood").rglob("good/*.png"))).convert("RGB")).astype(int)
    pixel = picture.copy()
    pixel[30, 30, 0] += 1
    near = [picture, picture + 1, picture - 1, pixel]
    results = detector.predict([x.clip(0, 255).astype(np.uint8) for x in near])
    assert [r.label for r in results] == ["normal"] * 4
    limit = detector.calibration.tasks[0].distance_limit
    assert all(r.calibrated < 0.45 and r.distance < 0.95 * limit for r in results)
    inverted, noise = 255 - picture, np.random.default_rng(0).integers(0, 256, picture.shape)
    assert all(r.label != "normal" for r in detector.predict([x.astype(np.uint8) for x in (inverted, noise)]))
