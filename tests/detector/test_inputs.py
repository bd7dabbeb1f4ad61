"""Everything an image can come as gives the same result, or is refused by name."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from moleflow_fast import Detector
from moleflow_fast.data import image_arrays as pictures
from moleflow_fast.errors import UserError

KINDS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "list": lambda p: [str(p)],
    "tuple": lambda p: (p,),
    "picture": Image.open,
    "array": lambda p: _array(p),
    "array batch": lambda p: _array(p)[None],
    "tensor": lambda p: _tensor(p),
    "tensor batch": lambda p: _tensor(p)[None],
    "tensor, channels last": lambda p: torch.from_numpy(_array(p).copy()),
    "floats": lambda p: _tensor(p).float() / 255,
    "list of arrays": lambda p: [_array(p)],
    "channels first": lambda p: _array(p).transpose(2, 0, 1),
    "batch, channels first": lambda p: _array(p).transpose(2, 0, 1)[None],
    "alpha": lambda p: np.dstack([_array(p), _array(p)[..., 0]]),
    "alpha, tensor": lambda p: torch.cat([_tensor(p), _tensor(p)[:1]]),
    "16 bits": lambda p: _array(p).astype(np.uint16) * 257,
    "16 bits, big end first": lambda p: (_array(p).astype(np.uint16) * 257).astype(">u2"),
    "array of 0..1": lambda p: _array(p) / 255,
    "array of 0..255": lambda p: _array(p).astype(np.float32),
    "tensor of 0..255": lambda p: _tensor(p).double(),
    "another order in memory": lambda p: np.asfortranarray(_array(p)),
    "bytes": Path.read_bytes,
    "open file": lambda p: p.open("rb"),
    "memory file": lambda p: io.BytesIO(p.read_bytes()),
    "generator": lambda p: (frame for frame in [_array(p)]),
    "something with __array__": lambda p: _Buffer(_array(p)),
}


class _Buffer:
    """As other libraries' arrays."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._values


def _array(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_same_result(kind: str, detector: Detector, photo: Path) -> None:
    (expected,) = detector.predict(photo)
    (result,) = detector.predict(KINDS[kind](photo))
    (streamed,) = detector.stream(KINDS[kind](photo))
    assert streamed.score == expected.score and streamed.source == result.source
    assert result.score == expected.score and result.label == expected.label
    assert np.array_equal(result.pixel_map, expected.pixel_map)
    assert result.source == (photo if kind in ("text", "list", "tuple") else 0)


def test_grey_pictures(detector: Detector, photo: Path) -> None:
    grey = Image.open(photo).convert("L")
    array = np.array(grey)
    (expected,) = detector.predict(grey)
    for one in (array, array[None], array[..., None], torch.from_numpy(array), torch.from_numpy(array)[None]):
        assert [r.score for r in detector.predict(one)] == [expected.score]
    assert [r.score for r in detector.predict(np.stack([array] * 3)[..., None])] == [expected.score] * 3


def test_every_mode_of_pillow(detector: Detector, photo: Path) -> None:
    picture = Image.open(photo).convert("RGB")
    (colour,), (grey,) = detector.predict(picture), detector.predict(picture.convert("L"))
    for mode in ("RGBA", "RGBX", "RGBa", "L", "LA", "La", "F", "I"):
        image = picture.convert("LA").convert(mode) if mode == "La" else picture.convert("RGBA").convert(mode)
        (result,) = detector.predict(image)
        assert result.score == (colour if "RGB" in mode else grey).score, mode
    for mode in ("1", "P", "PA", "CMYK", "YCbCr", "HSV"):
        image = picture.convert("P").convert(mode) if mode == "PA" else picture.convert(mode)
        assert detector.predict([image, image])[1].error is None, mode


def test_frames_that_are_written_where_the_last_one_was(detector: Detector, photo: Path, tmp_path: Path) -> None:
    frames = [_array(photo), 255 - _array(photo)] * 4
    expected = [r.score for r in detector.predict(frames)]
    assert len(set(expected)) == 2

    def camera(kind: Callable[[np.ndarray], Any]) -> Iterator[Any]:
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield kind(buffer)

    for kind in (lambda a: a, torch.from_numpy, lambda a: _Buffer(a)):
        assert [r.score for r in detector.stream(camera(kind))] == expected
        assert [r.score for r in detector.predict(camera(kind))] == expected
    first, *more = map(Image.fromarray, frames)
    first.save(tmp_path / "pages.tif", save_all=True, append_images=more)
    with Image.open(tmp_path / "pages.tif") as pages:
        assert [r.score for r in detector.stream(ImageSequence.Iterator(pages))] == expected


def test_batches_among_others(detector: Detector, photo: Path) -> None:
    batch = np.stack([_array(photo)] * 3)
    results = list(detector.stream(iter([photo, batch, batch[0]])))
    assert [r.source for r in results] == [photo, 1, 2, 3, 4]
    assert len({r.score for r in results}) == 1


def test_frames_that_are_no_picture_do_not_stop_a_stream(detector: Detector, photo: Path) -> None:
    frame = _array(photo)
    frames = [frame, frame * np.nan, frame[..., :2], photo.with_name("gone.png"), frame]
    first, nan, shape, gone, last = detector.stream(iter(frames))
    assert first.score == last.score and (nan.source, shape.source) == (1, 2)
    for result, words in ((nan, "not finite"), (shape, r"(64, 64, 2)"), (gone, "no such file")):
        assert result.label == "error" and result.error is not None and words in result.error
    with pytest.raises(UserError, match="not finite"):
        detector.predict(iter(frames))


def test_what_is_guessed_is_said_once(detector: Detector, photo: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = _array(photo)
    for images, say, words in (
        (np.dstack([array, array[..., 0]]), pictures._say_alpha, "the fourth, alpha, is left out"),
        (array.transpose(2, 0, 1), pictures._say_channels_first, "taken for pictures with channels first"),
    ):
        say.cache_clear()
        detector.predict([images] * 3)
        assert len([r for r in caplog.records if words in r.getMessage()]) == 1
    caplog.clear()
    detector.predict([_tensor(photo), array[None, ..., 0]])
    assert caplog.records == []


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
        (None, "no image: NoneType"),
        ({"a": 1}, "no image: dict"),
        (np.zeros((4,), np.uint8), r"shape \(4,\) is no picture's"),
        (np.zeros((0, 4), np.uint8), r"shape \(0, 4\)"),
        (np.ones((20, 30, 2), np.uint8), r"shape \(20, 30, 2\)"),
        (np.ones((20, 30, 40), np.uint8), r"of grey pictures give a list, or array\[..., None\]"),
        (np.ones((4, 4), np.int64), "type int64, whose range is unknown"),
        (np.full((4, 4), np.inf), "not finite"),
        (np.full((4, 4), -0.1), "from -0.1 to -0.1, which must lie in 0..1 or 0..255"),
        (np.full((4, 4), 4095.0), "16 bits as uint16"),
        (np.full((4, 4), 1.5, np.float16), "up to 1.5, which may be 0..1 with values too high"),
        (torch.ones(4, 4, dtype=torch.int64), "type int64"),
        (torch.ones(5, 5, 5, 5), r"shape \(5, 5, 5, 5\)"),
        (torch.full((3, 4, 4), 2.0), "up to 2"),
        (torch.full((3, 4, 4), torch.nan), "not finite"),
    ],
)
def test_what_is_no_image(images: Any, message: str, detector: Detector) -> None:
    with pytest.raises(UserError, match=message):
        detector.predict(images)
    with pytest.raises(UserError, match=message):
        detector.predict([images])
    with pytest.raises(UserError, match=message):
        detector.stream(images)


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
