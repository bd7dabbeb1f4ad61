"""A run on a GPU has its kernels compiled while it makes features, and waits for them before it trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from run.small_runs import arguments

from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.features import RunFeatures
from moleflow_fast.run.kernels import precompilation
from moleflow_fast.run.session import ContinualRun
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer


def new_run(data: Path, logs: Path) -> ContinualRun:
    return ContinualRun(RunOptions(**arguments(data, logs, heatmaps=0)), RunConsole(quiet=True))


def test_training_waits_for_kernels_that_are_compiled_while_features_are_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, but for the compiling: it is told shapes and GPU, begins before features and ends before steps."""
    happened: list[str] = []
    told: list[Any] = []

    class Compiling:
        def __init__(
            self, options: RunOptions, dim: int, grid: Any, arch: int, table: Any, console: RunConsole
        ) -> None:
            happened.append("begin")
            told.extend((options.batch_size, dim, grid(), arch, table.device))

        def wait(self) -> None:
            happened.append("wait")

    def noting(name: str, kind: type, method: str) -> None:
        plain = getattr(kind, method)

        def note(self: Any, *args: Any, **options: Any) -> Any:
            happened.append(name)
            return plain(self, *args, **options)

        monkeypatch.setattr(kind, method, note)

    monkeypatch.setattr("moleflow_fast.run.kernels.Precompilation", Compiling)
    monkeypatch.setattr(MoLEContinualTrainer, "steps_are_graphs", property(lambda trainer: True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    noting("features", RunFeatures, "training")
    noting("train", MoLEContinualTrainer, "train_task")
    new_run(data, tmp_path).execute()
    assert happened[0] == "begin" and happened.count("begin") == 1
    for trained in (at for at, what in enumerate(happened) if what == "train"):
        assert happened[trained - 2 : trained] == ["features", "wait"]
    assert happened.count("train") == 3
    assert told == [4, 32, (8, 8), 90, "none"]  # 64 pixels, layer2 of a ResNet-18


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_without_a_gpu_compiles_nothing(data: Path, tmp_path: Path) -> None:
    new = new_run(data, tmp_path)
    assert precompilation(new.run, new.trainer) is None
