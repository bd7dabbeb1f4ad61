"""A task's state between epochs is the same file for a worker and for the run itself: each goes on from the other's."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.soak import fingerprints
from run.small_runs import arguments, run

from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.parallel_tasks import options_for_workers, train_in_worker
from moleflow_fast.run.run import Run
from moleflow_fast.run.session import RunResult
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

OPTIONS = {"heatmaps": 0, "experiment_name": "run", "state_seconds": 0}


class Death(Exception):
    """Of a worker, after its first epoch."""


def dies_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    train_epoch = MoLEContinualTrainer._train_epoch

    def one(self: MoLEContinualTrainer, task_id: int, stage: object, epoch: int, *rest: object) -> object:
        if epoch == 1:
            raise Death
        return train_epoch(self, task_id, stage, epoch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MoLEContinualTrainer, "_train_epoch", one)


def epochs_trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    train_epoch, trained = MoLEContinualTrainer._train_epoch, []

    def noted(self: MoLEContinualTrainer, task_id: int, stage: object, epoch: int, *rest: object) -> object:
        trained.append((task_id, epoch))
        return train_epoch(self, task_id, stage, epoch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MoLEContinualTrainer, "_train_epoch", noted)
    return trained


@pytest.mark.parametrize("goes_on", ["worker", "run"])
def test_after_a_worker_died(
    goes_on: str, data: Path, tmp_path: Path, finished: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(finished.directory.path, tmp_path / "run"))
    for name in ("task_2.json", "task_2.safetensors"):
        (path / "checkpoints" / name).unlink()
    (path / "summary.json").unlink()
    driver = Run(RunContext(RunOptions(**arguments(data, tmp_path, **OPTIONS)), RunConsole(quiet=True)))
    work: Callable[[], object] = lambda: train_in_worker(  # noqa: E731
        2, options_for_workers(driver), str(path), torch.get_num_threads()
    )
    with monkeypatch.context() as patch:
        dies_after_an_epoch(patch)
        with pytest.raises(Death):
            work()
    assert (path / "checkpoints" / "task_2.partial.safetensors").exists()
    with monkeypatch.context() as patch:
        trained = epochs_trained(patch)
        if goes_on == "worker":
            work()
        run(data, tmp_path, resume=True, **OPTIONS)
        assert trained == [(2, 1)]
    assert fingerprints(path, path) == fingerprints(finished.directory.path, finished.directory.path)
