"""A library leaves the program that it works in as it was, and says what it cannot do there."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moleflow_fast import Detector
from moleflow_fast.data import normalization
from moleflow_fast.detector import forks
from moleflow_fast.errors import UserError
from moleflow_fast.export.exporting import Request, export
from moleflow_fast.run.session import RunResult


@contextmanager
def _set(change: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: _set(torch.set_default_dtype, torch.float64, torch.float32),
    "products in bf16": lambda: _set(torch.set_float32_matmul_precision, "medium", "highest"),
    "default device": lambda: _set(torch.set_default_device, "meta", None),
}


def _state() -> list[Any]:
    return [
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002 (that of whoever still uses it)
        random.getstate(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.matmul.fp32_precision,
    ]


@pytest.fixture(scope="module")
def image(data: Path) -> Path:
    return data / "wood" / "test" / "good" / "000.png"


@pytest.fixture(scope="module")
def expected(finished: RunResult, image: Path) -> list[Any]:
    return _answers(Detector.load(finished.directory.path), image)


def _answers(detector: Detector, image: Path) -> list[Any]:
    alone, *several = *detector.predict(image), *detector.predict([image] * 2), *detector.stream([image] * 3)
    return [(r.score, r.label, dict(r.distances), r.pixel_map.tobytes()) for r in (alone, *several)]


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str, finished: RunResult, image: Path, expected: list[Any]) -> None:
    normalization._on.cache_clear()
    outside = Detector.load(finished.directory.path)
    with MODES[name]():
        before = _state()
        inside = Detector.load(finished.directory.path)
        answers = [_answers(detector, image) for detector in (inside, outside)]
        assert _state() == before
    assert answers == [expected] * 2
    assert _answers(inside, image) == expected  # what was made under the mode serves outside of it


def test_a_precision_that_cannot_be_read_is_said(finished: RunResult, image: Path) -> None:
    detector = Detector.load(finished.directory.path)
    before = torch.backends.cudnn.conv.fp32_precision
    with _set(_set_convolutions, "ieee", before), pytest.raises(UserError, match="set_float32_matmul_precision"):
        detector.predict(image)
    assert detector.predict(image)[0].error is None


def _set_convolutions(precision: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = precision


def test_calibrating_and_exporting(finished: RunResult, tmp_path: Path) -> None:
    path = finished.directory.path
    calibration = (path / "calibration.json").read_text()
    (path / "calibration.json").unlink()
    torch.manual_seed(5)
    before = _state()
    Detector.load(path)
    assert (path / "calibration.json").read_text() == calibration
    with torch.inference_mode():
        export(Request(path, "torch", tmp_path / "detector.pt2", images_of_a_class=2))
    assert _state() == before


def test_a_fork_is_said_where_it_is_noticed(finished: RunResult, image: Path) -> None:
    detector = Detector.load(finished.directory.path, batch_size=1)
    stream = detector.stream([image] * 50)
    assert next(stream).error is None
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        said = [
            _in_a_fork(call)
            for call in (
                lambda: detector.predict(image),
                lambda: detector.stream([image]),
                lambda: Detector.load(finished.directory.path),
                lambda: next(stream),
            )
        ]
    finally:
        torch.set_num_threads(threads)
    for words in said[:3]:
        assert "get_context('spawn'), to which a Detector can be sent, or call torch.set_num_threads(1)" in words
    assert said[3] == "a stream does not survive a fork: start it in the process that takes its results"
    assert next(stream).error is None and len(list(stream)) == 48
    assert not forks._state.parent_computed


def _in_a_fork(call: Callable[[], object]) -> str:
    """What the error says that a call raises in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call()
        except UserError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        words = said.read()
    os.waitpid(child, 0)
    return words
