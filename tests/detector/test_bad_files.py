"""A file that cannot be read is a result with a message; an unusual one has a score."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow_fast import Detector


def _bomb(file: Path, _: Image.Image) -> None:
    """A PNG whose header claims 100,000 x 100,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(13, header), (0, b"IDAT")]
    framed = (struct.pack(">I", n) + content + struct.pack(">I", zlib.crc32(content)) for n, content in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def _truncated(file: Path, image: Image.Image) -> None:
    image.save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


UNREADABLE: dict[str, tuple[str, Callable[[Path, Image.Image], object], str]] = {
    "truncated png": ("a.png", _truncated, "damaged or cut short"),
    "truncated jpeg": ("a.jpg", _truncated, "damaged or cut short"),
    "empty": ("a.png", lambda f, _: f.write_bytes(b""), "not an image"),
    "text": ("a.png", lambda f, _: f.write_text("not an image\n"), "not an image"),
    "bomb": ("a.png", _bomb, "too many pixels"),
    "strip": ("a.png", lambda f, _: Image.new("L", (1, 4000)).save(f), "too narrow"),
    "missing": ("a.png", lambda f, _: None, "no such file"),
}
READABLE: dict[str, tuple[str, Callable[[Path, Image.Image], object]]] = {
    "single pixel": ("a.png", lambda f, _: Image.new("RGB", (1, 1)).save(f)),
    "gif": ("a.gif", lambda f, i: i.save(f, save_all=True, append_images=[Image.new("RGB", i.size)])),
    "pages": ("a.tif", lambda f, i: i.save(f, save_all=True, append_images=[Image.new("RGB", i.size)])),
    "cmyk": ("a.jpg", lambda f, i: i.convert("CMYK").save(f, quality=98)),
    "alpha": ("a.png", lambda f, i: i.convert("RGBA").save(f)),
    "png named jpg": ("a.jpg", lambda f, i: i.save(f, format="PNG")),
    "no suffix": ("image", lambda f, i: i.save(f, format="PNG")),
    "palette": ("a.png", lambda f, i: i.quantize(256).save(f)),
}


@pytest.fixture(scope="module")
def picture(data: Path) -> Image.Image:
    return Image.open(data / "wood" / "test" / "good" / "000.png").convert("RGB")


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable(name: str, detector: Detector, picture: Image.Image, photo: Path, tmp_path: Path) -> None:
    file, write, message = UNREADABLE[name]
    path = tmp_path / file
    write(path, picture)
    before, bad, after = detector.predict([photo, path, photo])
    assert before.score == after.score
    assert bad.label == "error" and bad.source == path
    assert bad.error is not None and str(path) in bad.error and message in bad.error
    assert np.isnan(bad.score) and np.isnan(bad.margin) and bad.regions == () and bad.anomaly_map.shape == (0, 0)
    assert bad.size is None and bad.task_id is None


@pytest.mark.parametrize("name", READABLE)
def test_unusual(name: str, detector: Detector, picture: Image.Image, tmp_path: Path) -> None:
    file, write = READABLE[name]
    write(tmp_path / file, picture)
    (result,) = detector.predict(tmp_path / file)
    (expected,) = detector.predict(picture)
    assert result.error is None
    if name in ("pages", "alpha", "png named jpg", "no suffix"):
        assert result.score == expected.score  # the first page alone, without alpha
    elif name != "single pixel":
        assert result.task_id == expected.task_id


def test_sixteen_bits(detector: Detector, picture: Image.Image, tmp_path: Path) -> None:
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    (result,) = detector.predict(tmp_path / "a.png")
    assert [result.score] == [r.score for r in detector.predict(grey)]


def test_a_directory_with_the_name_of_an_image(detector: Detector, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "dir.png").mkdir()
    (tmp_path / "dir.png" / "in.PNG").write_bytes(photo.read_bytes())
    assert [r.source for r in detector.predict(tmp_path)] == [tmp_path / "dir.png" / "in.PNG"]
    (streamed,) = detector.stream([tmp_path / "dir.png"])
    assert streamed.error is not None and "not a regular file" in streamed.error


def test_no_permission(detector: Detector, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Image.Image:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("PIL.Image.open", refuse)  # the superuser may read everything
    (result,) = detector.predict(photo)
    assert result.error is not None and "cannot be opened (Permission denied)" in result.error


def test_whatever_a_decoder_raises(detector: Detector, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> Image.Image:
        raise AssertionError("fp is None")

    monkeypatch.setattr("moleflow_fast.detector.images.load_image", fail)
    (result,) = detector.predict(photo)
    assert result.error is not None and "cannot be decoded (AssertionError: fp is None)" in result.error
