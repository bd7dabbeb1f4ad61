"""A device that would wait for the check makes the first features meanwhile: here a CPU that is taken for one."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from run import small_runs
from run.small_runs import CLASSES, run

from moleflow_fast.data.check import DataCheck
from moleflow_fast.data.data_error import DataError
from moleflow_fast.run import checks
from moleflow_fast.run import session as run_module
from moleflow_fast.run.features import RunFeatures
from moleflow_fast.run.run import Run
from moleflow_fast.run.session import RunResult


@pytest.fixture
def made_early(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Classes whose features were asked for before the check was over."""
    classes: list[list[str]] = []
    monkeypatch.setattr(run_module, "_is_beside_the_cpu", lambda device: True)
    make, finish = RunFeatures.training, checks._finish
    checked: list[bool] = []

    def training(self: RunFeatures, names: list[str], **how: bool) -> object:
        if not checked:
            classes.append(names)
        return make(self, names, **how)

    def finish_checks(run: Run, found: Sequence[DataCheck]) -> None:
        checked.append(True)
        finish(run, found)

    monkeypatch.setattr(RunFeatures, "training", training)
    monkeypatch.setattr(checks, "_finish", finish_checks)
    return classes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_comes_out_the_same(
    num_workers: int, data: Path, finished: RunResult, tmp_path: Path, made_early: list[list[str]]
) -> None:
    early = run(data, tmp_path, run_diagnostics=True, num_workers=num_workers).directory.path
    assert made_early == [[CLASSES[0]]]
    assert small_runs.summary(early) == small_runs.summary(finished.directory.path)


@pytest.mark.parametrize("broken", [f"{CLASSES[0]}/train", f"{CLASSES[2]}/test"], ids=["in the first task", "later"])
def test_what_is_wrong_with_files_is_said_all_the_same(
    broken: str, data: Path, tmp_path: Path, made_early: list[list[str]]
) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    file = sorted((copy / broken / "good").iterdir())[-1]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=file.name):
        run(copy, tmp_path / "logs")
    assert made_early and not (tmp_path / "logs" / "folder-resnet18-seed0").exists()


def test_a_resumed_run_waits(data: Path, tmp_path: Path, made_early: list[list[str]]) -> None:
    run(data, tmp_path, num_epochs=1)
    made_early.clear()
    run(data, tmp_path, num_epochs=1, resume=True)
    assert not made_early
