"""examples/frames.py on a generated animation, and on what stands for a camera."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from moleflow_fast import Detector
from moleflow_fast.run.session import RunResult

EXAMPLE = Path(__file__).parents[2] / "examples" / "frames.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("frames", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "cv2" not in sys.modules
    return module


@pytest.fixture(scope="module")
def pictures(data: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(data / name / "test" / "good" / "000.png")) for name in ("wood", "fabric", "gasket")]


class _Capture:
    """As OpenCV's: BGR, each frame where the last one was."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self._left = list(pictures)
        self._buffer = np.empty_like(pictures[0])
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's)
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        if not self._left:
            return False, None
        self._buffer[:] = self._left.pop(0)[..., ::-1]
        return True, self._buffer

    def release(self) -> None:
        self.released = True


def test_a_capture(example: ModuleType, detector: Detector, pictures: list[np.ndarray]) -> None:
    expected = [r.score for r in detector.predict(pictures)]
    for consume in (detector.stream, detector.predict):
        capture = _Capture(pictures)
        assert [r.score for r in consume(example.frames_of_capture(capture))] == expected
        assert capture.released


def test_a_capture_is_let_go_of_when_the_stream_is_left(
    example: ModuleType, detector: Detector, pictures: list[np.ndarray]
) -> None:
    capture = _Capture(pictures * 100)
    stream = detector.stream(example.frames_of_capture(capture))
    next(stream)
    stream.close()
    end = time.monotonic() + 10
    while not capture.released:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_buffers(example: ModuleType, detector: Detector, pictures: list[np.ndarray]) -> None:
    height, width, _ = pictures[0].shape
    coloured = [SimpleNamespace(data=p.reshape(-1), height=height, width=width) for p in pictures]
    expected = [r.score for r in detector.predict(pictures)]
    assert [r.score for r in detector.stream(example.frames_of_buffers(coloured))] == expected
    grey = [np.asarray(Image.fromarray(p).convert("L")) for p in pictures]
    twelve = [SimpleNamespace(data=g.reshape(-1).astype(np.uint16) << 4, height=height, width=width) for g in grey]
    frames = list(example.frames_of_buffers(twelve, bits=12))
    assert [f.max() >> 8 for f in frames] == [g.max() for g in grey]
    assert [r.error for r in detector.stream(frames)] == [None] * 3


def test_the_command(
    example: ModuleType,
    finished: RunResult,
    detector: Detector,
    pictures: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, *more = map(Image.fromarray, pictures)
    first.save(tmp_path / "line.tif", save_all=True, append_images=more)
    capture = _Capture(pictures)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=lambda source: capture))
    expected = [
        f"frame {i}: {r.label} {r.calibrated:.3f} {r.class_names[0]}" for i, r in enumerate(detector.predict(pictures))
    ]
    for source in (str(tmp_path / "line.tif"), "0"):
        example.main([str(finished.directory.path), source])
        assert capsys.readouterr().out.splitlines() == expected
    assert capture.released
    with pytest.raises(Exception, match="it knows fabric, gasket, wood"):
        example.main([str(finished.directory.path), "0", "--product", "bolt"])
