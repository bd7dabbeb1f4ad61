"""A finished run and its exported files, each made once however many workers run the tests."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from run.small_runs import run, write_data

from moleflow_fast.cli.export import main
from moleflow_fast.run.directory import RunDirectory


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the whole test session, of all its workers."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "export"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def once(marker: Path) -> Iterator[bool]:
    """Whether it is this worker that makes what `marker` stands for; the others wait for it."""
    with marker.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not marker.exists()
        marker.touch()


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    with once(shared / "data.made") as first:
        return write_data(shared) if first else shared / "demo"


@pytest.fixture(scope="session")
def finished(data: Path, shared: Path) -> Path:
    """A run directory; tests only read it."""
    with once(shared / "run.made") as first:
        if first:
            run(data, shared / "logs", experiment_name="small")
    return RunDirectory.open(shared / "logs" / "small").path


@pytest.fixture(scope="session")
def onnx_file(finished: Path, shared: Path) -> Path:
    """Of the finished run, by the command."""
    return _exported(finished, shared / "detector.onnx", "onnx")


@pytest.fixture(scope="session")
def torch_file(finished: Path, shared: Path) -> Path:
    return _exported(finished, shared / "detector.pt2", "torch")


def _exported(run: Path, file: Path, kind: str) -> Path:
    with once(file.with_suffix(f".{kind}.made")) as first:
        if first:
            assert main([str(run), "--format", kind, "-o", str(file), "--check_images", "4"]) == 0
    return file
