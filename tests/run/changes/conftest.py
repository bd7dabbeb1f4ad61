import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run.small_runs import run, write_data

from moleflow_fast.cli.train import main
from moleflow_fast.config import AblationConfig

OLD = ("fabric", "gasket")
NEW = "wood"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the products that a run starts with."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def new_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the new product, elsewhere."""
    root = tmp_path_factory.mktemp("new")
    shutil.move(data / NEW, root / NEW)
    return root


@pytest.fixture(scope="session")
def base(data: Path, new_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two products; tests only read it."""
    return run(data, tmp_path_factory.mktemp("logs"), task_classes=OLD).directory.path


@pytest.fixture(scope="session")
def fronts(data: Path, new_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of no epochs of two products with Gaussian fronts, extended by the new one; tests only read it."""
    config = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False)
    logs = tmp_path_factory.mktemp("fronts")
    path = run(data, logs, task_classes=OLD, num_epochs=0, ablation=config, run_diagnostics=True).directory.path
    shutil.copytree(path, path.with_name("before"))
    assert main(extension(path, new_data)) == 0
    return path


@pytest.fixture
def started(base: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(base, tmp_path / "parts"))


@pytest.fixture(scope="session")
def extended(base: Path, new_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with the new product; tests only read it."""
    path = Path(shutil.copytree(base, tmp_path_factory.mktemp("extended") / "parts"))
    assert main(extension(path, new_data)) == 0
    return path


def extension(path: Path, new_data: Path, *more: str) -> list[str]:
    return ["--extend", str(path), "--data_path", str(new_data), "--task_classes", NEW, "--quiet", *more]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that must fail, and returns its message."""

    def command(argv: list[str]) -> str:
        capsys.readouterr()
        assert main(argv) == 1
        return capsys.readouterr().err

    return command
