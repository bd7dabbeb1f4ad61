"""Everything an image can come as gives the same result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_fast import Detector
from moleflow_fast.errors import UserError

KINDS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "list": lambda p: [str(p)],
    "tuple": lambda p: (p,),
    "picture": Image.open,
    "array": lambda p: np.asarray(Image.open(p)),
    "array batch": lambda p: np.asarray(Image.open(p))[None],
    "tensor": lambda p: _tensor(p),
    "tensor batch": lambda p: _tensor(p)[None],
    "floats": lambda p: _tensor(p).float() / 255,
    "list of arrays": lambda p: [np.asarray(Image.open(p))],
}


def _tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_same_result(kind: str, detector: Detector, photo: Path) -> None:
    (expected,) = detector.predict(photo)
    (result,) = detector.predict(KINDS[kind](photo))
    assert result.score == expected.score and result.label == expected.label
    assert np.array_equal(result.pixel_map, expected.pixel_map)
    assert result.source == (photo if kind in ("text", "list", "tuple") else 0)


def test_grey_pictures(detector: Detector, photo: Path) -> None:
    grey = Image.open(photo).convert("L")
    array = np.array(grey)
    (expected,) = detector.predict(grey)
    for images in (array, array[None], torch.from_numpy(array), torch.from_numpy(array)[None]):
        assert [r.score for r in detector.predict(images)] == [expected.score]


def test_folders_and_lists_keep_order(detector: Detector, data: Path, photo: Path) -> None:
    folder = data / "wood" / "test"
    results = detector.predict(folder)
    assert [r.source for r in results] == sorted(folder.rglob("*.png")) and len(results) > 4
    mixed = detector.predict([photo, np.zeros((8, 9), np.uint8), folder, Image.new("RGB", (5, 6))])
    assert [r.source for r in mixed] == [photo, 1, *(r.source for r in results), 2 + len(results)]
    assert (mixed[1].size, mixed[-1].size) == ((9, 8), (5, 6))


def test_an_empty_list(detector: Detector) -> None:
    assert detector.predict([]) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (7, "no image: int"),
        (np.zeros((4, 4), np.float32), "must be uint8, got float32"),
        (np.zeros((4, 4, 4, 4), np.uint8), r"got \(4, 4, 4, 4\)"),
        (np.zeros((4,), np.uint8), "NumPy images must be"),
        (np.zeros((0, 4), np.uint8), "NumPy images must be"),
        (torch.zeros(4, 4, dtype=torch.int64), "must be uint8, or floating point"),
        (torch.zeros(4, 4, 4, 4), "torch images must be"),
        (torch.full((3, 4, 4), 2.0), "must lie in 0..1"),
        (torch.full((3, 4, 4), torch.nan), "must lie in 0..1"),
    ],
)
def test_what_is_no_image(images: Any, message: str, detector: Detector) -> None:
    with pytest.raises(UserError, match=message):
        detector.predict(images)
    with pytest.raises(UserError, match=message):
        detector.predict([images])


def test_a_folder_without_images(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UserError, match="no images below it; they end in .*.bmp"):
        detector.predict(tmp_path)


def test_maps_of_pictures_that_are_not_square(detector: Detector, photo: Path) -> None:
    wide = Image.open(photo).resize((300, 100))
    (result,) = detector.predict(wide)
    assert result.anomaly_map.shape == (100, 300)
    seen = ~np.isnan(result.anomaly_map)
    assert seen[:, 100:200].all() and not seen[:, :100].any() and not seen[:, 200:].any()
    (square,) = detector.predict(wide.crop((100, 0, 200, 100)))
    assert result.score == pytest.approx(square.score, rel=1e-2)
