"""A run keeps the table of ways that it was started with; without a GPU Triton's interpreter stands for one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run.small_runs import CLASSES, arguments

pytest.importorskip("triton")

from moleflow_fast.backend import use_backend
from moleflow_fast.config.options import RunOptions
from moleflow_fast.kernels import ways
from moleflow_fast.kernels.ways import current_table
from moleflow_fast.kernels.ways_table import NO_TABLE, Table, packaged, table_of_one
from moleflow_fast.run import evaluating
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.directory import DamagedRunFile, RunDirectory
from moleflow_fast.run.parallel_tasks import train_in_worker
from moleflow_fast.run.session import ContinualRun
from moleflow_fast.run.ways import keep_ways, stored_ways

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
H200 = next(table for table in packaged() if table.device == "NVIDIA H200")
OTHER = table_of_one("relu_product", H200.entries[0].timings[1].way)


@pytest.fixture
def on_h200(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This device's table is that of an H200."""
    monkeypatch.setattr(ways, "table_of", lambda device: H200)
    with use_backend("triton"):
        yield


def measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "table_of", lambda device: OTHER)


@pytest.mark.usefixtures("on_h200")
def test_a_run_keeps_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path)
    assert keep_ways(directory, DEVICE) == f"by the table of NVIDIA H200, {H200.digest}"
    measured_again(monkeypatch)
    assert current_table(DEVICE) is OTHER
    assert keep_ways(directory, DEVICE) == f"by the table of NVIDIA H200, {H200.digest}"
    with stored_ways(directory, DEVICE):
        assert current_table(DEVICE).to_json() == H200.to_json()
    assert current_table(DEVICE) is OTHER


@pytest.mark.usefixtures("on_h200")
def test_new_resumed_evaluated_and_in_a_worker(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each of them would learn or evaluate with; nothing is computed."""
    used: list[Table] = []

    def note(self: object, *arguments: object) -> None:
        used.append(current_table(DEVICE))

    monkeypatch.setattr(ContinualRun, "_learn_and_finish", note)
    monkeypatch.setattr(evaluating, "_evaluate_again", note)
    monkeypatch.setattr("moleflow_fast.run.parallel_tasks.train_task", note)
    monkeypatch.setattr("moleflow_fast.run.parallel_tasks.checkpoint.load_tasks", lambda *_, **__: [])
    options = arguments(
        data, tmp_path, backend="triton", device=DEVICE.type, experiment_name="one", task_classes=CLASSES
    )
    ContinualRun(RunOptions(**options), RunConsole(quiet=True)).execute()
    measured_again(monkeypatch)
    resumed = ContinualRun(RunOptions(**options, resume=True), RunConsole(quiet=True))
    resumed.execute()
    assert resumed.directory is not None
    evaluating.evaluate_again(resumed.directory, resumed.options)
    train_in_worker(1, resumed.options.to_json(), str(resumed.directory.path), torch.get_num_threads())
    assert [table.digest for table in used] == 4 * [H200.digest]


def test_a_device_without_a_table_keeps_to_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "table_of", lambda device: NO_TABLE)
    with use_backend("triton"):
        assert keep_ways(RunDirectory(tmp_path), DEVICE) == "by defaults: there is no table"
        measured_again(monkeypatch)
        with stored_ways(RunDirectory(tmp_path), DEVICE):
            assert current_table(DEVICE).entries == ()


def test_other_backends_store_nothing(tmp_path: Path) -> None:
    with use_backend("eager"):
        assert keep_ways(RunDirectory(tmp_path), DEVICE) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("on_h200")
@pytest.mark.parametrize("text", ["", "[]", '{"device": "x", "capability": null, "source": "", "entries": [{}]}'])
def test_a_damaged_table_says_what_to_do(tmp_path: Path, text: str) -> None:
    directory = RunDirectory(tmp_path)
    directory.ways.write_text(text)
    with pytest.raises(DamagedRunFile, match="ways.json.*delete it"), stored_ways(directory, DEVICE):
        pass


@pytest.mark.usefixtures("on_h200")
def test_the_file_is_plain_json(tmp_path: Path) -> None:
    keep_ways(RunDirectory(tmp_path), DEVICE)
    assert json.loads((tmp_path / "ways.json").read_text()) == H200.to_json()
