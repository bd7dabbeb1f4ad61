from pathlib import Path

import pytest
from run.small_runs import run, write_data

from moleflow_fast.run.session import RunResult


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """An uninterrupted run; tests only read it."""
    return run(data, tmp_path_factory.mktemp("logs"), heatmaps=0, experiment_name="run")
