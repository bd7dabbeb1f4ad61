"""Later tasks on Ray workers: the sequential run's result to the bit, whoever dies on the way."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from run.small_runs import arguments, command_line, rows, run, summary
from safetensors.torch import load_file

from moleflow_fast.cli.train import main
from moleflow_fast.config import AblationConfig
from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.parallel_tasks import RETRIES, TasksOnWorkers, options_for_workers, train_in_worker
from moleflow_fast.run.run import Run
from moleflow_fast.run.session import RunResult
from moleflow_fast.trainer import checkpoint

LONG = {"num_epochs": 150, "heatmaps": 0}  # 1.5 s a task: long enough to be met in the middle


@pytest.fixture(scope="module")
def long(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(data, tmp_path_factory.mktemp("long"), **LONG).directory.path


def contents(path: Path) -> dict[str, Any]:
    """What a run leaves, but for seconds, options and pictures."""
    epochs = [{k: v for k, v in row.items() if k != "seconds"} for row in rows(path / "epochs.csv")]
    texts = [*path.glob("evaluation/*.csv"), *path.glob("diagnostics/*.json")]
    return {"epochs": epochs, "summary": summary(path), **{file.name: file.read_text() for file in texts}}


def assert_same_result(path: Path, expected: Path) -> None:
    assert contents(path) == contents(expected)
    files = sorted(file.name for file in (expected / "checkpoints").iterdir())
    assert sorted(file.name for file in (path / "checkpoints").iterdir()) == files
    for name in files:
        if name.endswith(".json"):
            assert (path / "checkpoints" / name).read_text() == (expected / "checkpoints" / name).read_text()
            continue
        ours, theirs = (load_file(folder / "checkpoints" / name) for folder in (path, expected))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def wait_until(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def holders(file: Path) -> list[int]:
    """Processes that have a file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # It may end meanwhile, or close what it has open.
        with contextlib.suppress(OSError):
            if any(os.readlink(link) == str(file) for link in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def worker_in_the_middle(path: Path, task_id: int) -> int | None:
    """The process that trains a task, once it has done a few epochs."""
    if len(RunDirectory(path).epochs_of(task_id)) < 3:
        return None
    return next(iter(holders(path / f".task_{task_id}.lock")), None)


def descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parts[2]))
    found, new = set(), [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found.update(new)
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that run; who has ended and waits for a parent that reads its code does not count."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.add(pid)
    return running


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # ended meanwhile


def agents(pids: set[int]) -> set[int]:
    """Ray's idle helpers, which outlive a killed driver by the minute that they try to report its end."""
    return {pid for pid in pids if re.match(rb"ray::\w+Agent", command(pid))}


@pytest.mark.slow
def test_workers_give_the_sequential_result(
    finished: RunResult, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = descendants(os.getpid())
    result = run(data, tmp_path, run_diagnostics=True, tensorboard=True, parallel_tasks="ray")
    assert_same_result(result.directory.path, finished.directory.path)
    assert result.routed == finished.routed
    said = capsys.readouterr().out
    for line in ("workers        for tasks 1, 2", "task 1 gasket: loss", "task 2 wood: loss", "after task 2"):
        assert line in said
    wait_until(lambda: not alive(descendants(os.getpid()) - before), 20)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(result.directory.path / "tensorboard"))
    events.Reload()
    losses = [float(row["loss"]) for row in rows(result.directory.path / "epochs.csv") if row["task_id"] == "2"]
    assert [event.value for event in events.Scalars("task_2/loss")] == pytest.approx(losses, rel=1e-6)


@pytest.mark.slow
def test_a_worker_that_is_killed(long: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "parallel"

    def kill() -> None:
        os.kill(wait_until(lambda: worker_in_the_middle(path, 1)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run(data, tmp_path, experiment_name="parallel", parallel_tasks="ray", **LONG)
    killer.join()
    assert "task 1: its worker died" in capsys.readouterr().out
    assert_same_result(path, long)


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_then_killed(
    long: Path, data: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Nothing lives on; what is complete, here task 2 before task 1, is not trained again."""
    path = tmp_path / "parallel"
    options = {"experiment_name": "parallel", "parallel_tasks": "ray", **LONG}
    argv = [sys.executable, "-P", "-m", "moleflow_fast.train", *command_line(data, tmp_path, **options)]
    # SIGTERM goes the way of SIGINT, and ends a sweep on Ray in its own tests: here with --full.
    terminated = [(signal.SIGTERM, 143)] if pytestconfig.getoption("--full") else []
    ends = [(signal.SIGINT, 130), *terminated, (signal.SIGKILL, -signal.SIGKILL)]
    for again, (end, code) in zip(([], *[["--resume"]] * (len(ends) - 1)), ends, strict=True):
        process = subprocess.Popen([*argv, *again], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda process=process: process.poll() is not None or worker_in_the_middle(path, 1))
            processes = descendants(process.pid)
            assert process.poll() is None, f"it ended first: {process.communicate()[1]}"
            assert any(b"raylet" in command(pid) for pid in processes)
            process.send_signal(end)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == code
        assert ("add --resume" in errors) == (code > 0)
        wait_until(lambda processes=processes: not alive(processes - agents(processes)), 30)
        assert code < 0 or not alive(processes)
        # A worker may complete its task before it sees the end of its run.
        (path / "checkpoints" / "task_1.json").unlink(missing_ok=True)
    for name in ("task_2.safetensors", "task_2.json"):
        shutil.copy2(long / "checkpoints" / name, path / "checkpoints" / name)
    for record in RunDirectory(long).epochs_of(2):
        RunDirectory(path).append_epoch(record)
    complete = [path / "checkpoints" / f"task_{task_id}.safetensors" for task_id in (0, 2)]
    written = [file.stat().st_mtime_ns for file in complete]
    run(data, tmp_path, resume=True, **options)
    assert_same_result(path, long)
    assert [file.stat().st_mtime_ns for file in complete] == written


@pytest.mark.slow
def test_several_classes_in_the_first_task(data: Path, tmp_path: Path) -> None:
    options = {"cl_scenario": "2-1", "heatmaps": 0}
    sequential, parallel = run(data, tmp_path, **options), run(data, tmp_path, parallel_tasks="ray", **options)
    assert_same_result(parallel.directory.path, sequential.directory.path)


@pytest.mark.parametrize(
    "ablation",
    [
        AblationConfig(use_task_separated=True),
        AblationConfig(adapter_mode="no_ln"),
        AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False),
        AblationConfig(use_spectral_norm=True, use_scale_context=False),
        AblationConfig(use_regular_linear=True, use_scale_context=False),
        AblationConfig(router_covariance="pooled"),
    ],
)
def test_a_task_learns_the_same_with_task_0_alone_before_it(
    ablation: AblationConfig, data: Path, tmp_path: Path
) -> None:
    """What a worker does, in this process."""
    path = run(data, tmp_path, ablation=ablation, heatmaps=0).directory.path
    worker = Run(RunContext(RunOptions(**arguments(data, tmp_path, ablation=ablation)), RunConsole(quiet=True)))
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("task_0.safetensors", "task_0.json"):
        (alone / "checkpoints").mkdir(exist_ok=True)
        shutil.copy(path / "checkpoints" / name, alone / "checkpoints" / name)
    train_in_worker(2, options_for_workers(worker), str(alone), torch.get_num_threads())
    ours, theirs = (load_file(folder / "checkpoints" / "task_2.safetensors") for folder in (alone, path))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_gap_closed_without_workers(finished: RunResult, data: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(finished.directory.path, tmp_path / "gap"))
    (path / "checkpoints" / "task_1.json").unlink()
    for file in (path / "summary.json", *(path / "evaluation" / f"after_task_{t}.csv" for t in (1, 2))):
        file.unlink()
    before = (path / "checkpoints" / "task_2.safetensors").stat().st_mtime_ns
    run(data, tmp_path, experiment_name="gap", run_diagnostics=True, resume=True)
    assert_same_result(path, finished.directory.path)
    assert (path / "checkpoints" / "task_2.safetensors").stat().st_mtime_ns == before


def test_tasks_on_another_base_do_not_count(finished: RunResult, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.directory.checkpoints, tmp_path / "checkpoints"))
    (folder / "task_1.json").unlink()
    assert checkpoint.keep_valid(folder, 3, base_is_frozen=True) == [0, 2]
    assert checkpoint.keep_valid(folder, 3, base_is_frozen=False) == [0]
    assert not checkpoint.is_complete(folder, 2)
    (folder / "task_0.json").unlink()
    assert checkpoint.keep_valid(folder, 3, base_is_frozen=True) == []


class FakeRay:
    """A Ray whose tasks end as told: with warnings, or an error."""

    def __init__(self, *ends: Any) -> None:
        import ray

        self.exceptions = ray.exceptions
        self.ends = list(ends)
        self.started: list[int] = []

    def nodes(self) -> list[dict]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def remote(self, **_: Any) -> Callable:
        return lambda function: SimpleNamespace(remote=self.start)

    def start(self, task_id: int, *_: Any) -> str:
        self.started.append(task_id)
        return f"reference {len(self.started)}"

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return references[:1], references[1:]

    def get(self, reference: str) -> Any:
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


def tasks_on(fake: FakeRay, finished: RunResult) -> TasksOnWorkers:
    run = Run(RunContext(finished.directory.options(), RunConsole(quiet=True)))
    workers = TasksOnWorkers(fake, run, finished.directory)
    workers.start(1)
    return workers


def test_a_task_is_given_up_after_its_retries(finished: RunResult, caplog: pytest.LogCaptureFixture) -> None:
    from ray.exceptions import OutOfMemoryError

    death = OutOfMemoryError("memory")
    fake = FakeRay(death, ["few images"])
    workers = tasks_on(fake, finished)
    assert workers.finished(0) == [] and workers.finished(0) == [1] and workers.tasks == []
    assert "few images" in caplog.text
    workers = tasks_on(FakeRay(*[death] * (RETRIES + 1)), finished)
    for _ in range(RETRIES):
        workers.finished(0)
    with pytest.raises(UserError, match="task 1: its worker died 3 times, the last time so: its machine ran out of"):
        workers.finished(0)


def test_an_error_of_the_users_in_a_worker_is_that_message(finished: RunResult) -> None:
    from ray.exceptions import RayTaskError

    wrapped = RayTaskError("train", "Traceback ...", UserError("lower --lr")).as_instanceof_cause()
    with pytest.raises(UserError) as caught:
        tasks_on(FakeRay(wrapped), finished).finished(0)
    assert str(caught.value) == "lower --lr"


def test_a_second_worker_on_a_task_waits_and_finds_it_done(finished: RunResult, data: Path) -> None:
    worker = Run(RunContext(finished.directory.options(), RunConsole(quiet=True)))
    before = (finished.directory.path / "epochs.csv").read_text()
    started = threading.Event()

    def second() -> None:
        started.set()
        train_in_worker(1, options_for_workers(worker), str(finished.directory.path), torch.get_num_threads())

    with finished.directory.task_held(1):
        thread = threading.Thread(target=second)
        thread.start()
        started.wait()
        time.sleep(0.3)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
    assert (finished.directory.path / "epochs.csv").read_text() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enable_slow_stage": True}, "--enable_slow_stage and --no_freeze_base change the base"),
        ({"no_freeze_base": True}, "--enable_slow_stage and --no_freeze_base change the base"),
    ],
)
def test_refused_where_later_tasks_change_the_base(
    changes: dict, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command_line(data, tmp_path / "logs", parallel_tasks="ray", **changes)) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "logs").glob("*/config.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final_eval_only": True, "load_checkpoint": "x", "parallel_tasks": "ray"}, "trains no tasks"),
        ({"ray_address": "auto"}, "--ray_address is for --parallel_tasks ray"),
        ({"parallel_tasks": "threads"}, "--parallel_tasks must be one of off, ray"),
    ],
)
def test_options_that_make_no_sense_together(changes: dict, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        RunOptions(**arguments(data, tmp_path, **changes))


def test_without_ray(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command_line(data, tmp_path / "logs", parallel_tasks="ray")) == 1
    assert "pip install 'moleflow_fast[sweep]'" in capsys.readouterr().err
    assert not list((tmp_path / "logs").glob("*/config.json"))


def test_how_a_run_is_spread_is_no_part_of_its_result(finished: RunResult, data: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(finished.directory.options(), parallel_tasks="ray", resume=True)
    renamed = dataclasses.replace(options, experiment_name=finished.directory.path.name)
    assert RunDirectory.create(renamed).path == finished.directory.path
    assert json.loads(json.dumps(options.to_json()))["parallel_tasks"] == "ray"
