"""A detector in another process: it is loaded again from its run."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from moleflow_fast import Detector
from moleflow_fast.config.requested import use_backend
from moleflow_fast.run.directory import RunDirectoryError
from moleflow_fast.run.session import RunResult


def test_pickled(finished: RunResult, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished.directory.path
    monkeypatch.chdir(path.parent)
    with use_backend("eager"):
        detector = Detector.load(path.name, "cpu", threshold=0.25, batch_size=3)
    content = pickle.dumps(detector)
    assert len(content) < 2000
    monkeypatch.chdir("/")
    again = pickle.loads(content)
    assert (again.limits, again.batch_size, again.calibration) == (detector.limits, 3, detector.calibration)
    assert again._run.options == detector._run.options and again._run.options.backend == "eager"
    assert again.predict(photo)[0].score == detector.predict(photo)[0].score
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        pickle.loads(content)


def test_in_a_process_started_by_spawn(detector: Detector, photo: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        (result,) = pool.submit(detector.predict, photo).result(timeout=120)
    (expected,) = detector.predict(photo)
    assert (result.label, result.score, result.regions) == (expected.label, expected.score, expected.regions)
    assert (result.anomaly_map == expected.anomaly_map).all()
