"""Sweeps on a real Ray: nothing is lost when workers or the driver are killed, and results are those of plain runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from run.small_runs import command_line, rows, run, write_data

from moleflow_fast.cli.sweep import main
from moleflow_fast.experiments.records import read_records
from moleflow_fast.run.directory import RunDirectory

pytestmark = pytest.mark.slow
EPOCHS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def words(data: Path, sweep: Path, *more: str, **changes: object) -> list[str]:
    changes = {"heatmaps": 0, "cache_dir": str(sweep.parent / "features"), "log_dir": None, "quiet": False, **changes}
    asked = command_line(data, sweep, preset=None, **changes)
    return ["-o", str(sweep), "--quiet", "--cpus", "2", "--presets", "published", *asked, *more]


def numbers(path: Path) -> list[str]:
    return [file.read_text() for file in sorted((path / "evaluation").iterdir())]


def wait_for(what: Callable[[], object], seconds: float = 150) -> object:
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)
    return found


@pytest.fixture
def start() -> Iterator[Callable[[list[str]], subprocess.Popen]]:
    """Starts a sweep as a process of its own; what is left of it after the test is killed."""
    left: list[psutil.Process] = []

    def begin(command: list[str]) -> subprocess.Popen:
        driver = subprocess.Popen([sys.executable, "-P", "-m", "moleflow_fast.sweep", *command])
        left.append(psutil.Process(driver.pid))
        return driver

    yield begin
    for driver in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*driver.children(recursive=True), driver]:
                process.kill()


def workers(driver: int) -> list[psutil.Process]:
    """Ray's processes that run something right now."""
    return [p for p in psutil.Process(driver).children(recursive=True) if _title(p).startswith("ray::attempt_run")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # ended meanwhile
        return ""


def has_reached(sweep: Path, task: str) -> list[Path]:
    files = [file for file in sweep.glob("runs/*/epochs.csv") if file.stat().st_size]
    return [file.parent for file in files if any(row["task_id"] == task for row in rows(file))]


def test_a_sweep_gives_the_numbers_of_plain_runs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sweep = tmp_path / "sweep"
    grid, seeds = ("--grid", "dia_n_blocks=1,2", "lr=1e-3,1e30"), ("--seeds", "1")
    assert main(words(data, sweep, *grid, *seeds, "--retries", "1", lr=None)) == 1
    shown = capsys.readouterr().out
    latest = {record["identity"]: record for record in read_records(sweep / "results.jsonl")}
    finished = [record for record in latest.values() if record["status"] == "finished"]
    failed = [record for record in latest.values() if record["status"] == "failed"]
    assert len(finished) == len(failed) == 2

    for record in failed:
        assert "lr=1e30" in record["name"] and record["attempts"] == 2
        assert "none of 1 batches had a finite loss" in record["error"]
    assert shown.count("tried again: task 0") == 2 and "written to" in shown

    for record in finished:
        (blocks,) = (int(w[len("dia_n_blocks=")]) for w in record["name"].split("+") if w.startswith("dia"))
        options = RunDirectory.open(sweep / record["directory"]).options()
        assert options.ablation.dia_n_blocks == blocks and record["attempts"] == 1
        plain = run(data, tmp_path / "plain", seed=record["seed"], ablation=options.ablation, heatmaps=0)
        assert numbers(sweep / record["directory"]) == numbers(plain.directory.path)
        assert record["routed"]["image_auroc"] == plain.routed.mean("image_auroc")
    entries = {file.name.split(".")[0] for file in (tmp_path / "features").iterdir() if "lock" not in file.name}
    assert len(entries) == 6  # train and test of three classes: all runs read the same

    before = (sweep / "results.jsonl").read_text()
    assert main(words(data, sweep, "--grid", "dia_n_blocks=1,2", *seeds)) == 0
    assert "2 runs: 2 finished" in capsys.readouterr().out
    assert (sweep / "results.jsonl").read_text() == before


def test_killed_workers_drivers_and_machines_lose_at_most_the_task_in_progress(
    data: Path, tmp_path: Path, start: Callable[[list[str]], subprocess.Popen]
) -> None:
    sweep = tmp_path / "sweep"
    command = words(data, sweep, "--retries", "1", num_epochs=EPOCHS)

    driver = start(command)
    (path,) = wait_for(lambda: has_reached(sweep, "1"))
    first_task = rows(path / "epochs.csv")[:EPOCHS]
    victim = workers(driver.pid)[0]
    victim.kill()
    at_work = wait_for(lambda: [p for p in workers(driver.pid) if p.pid != victim.pid])
    driver.kill()
    driver.wait()
    assert not psutil.wait_procs(at_work, timeout=30)[1], "workers outlived their driver"

    machine = start(command)
    wait_for(lambda: has_reached(sweep, "2"))
    for process in [psutil.Process(machine.pid), *psutil.Process(machine.pid).children(recursive=True)]:
        process.kill()
    machine.wait()
    with (sweep / "results.jsonl").open("a") as file:
        file.write('{"identity": "torn')

    assert start(command).wait(120) == 0
    (record,) = read_records(sweep / "results.jsonl")
    assert record["status"] == "finished" and record["directory"] == f"runs/{path.name}"
    assert rows(path / "epochs.csv")[:EPOCHS] == first_task  # not trained again: its seconds are the same
    assert numbers(path) == numbers(run(data, tmp_path, num_epochs=EPOCHS, heatmaps=0).directory.path)


def test_a_lost_worker_is_named_when_tries_run_out(
    data: Path, tmp_path: Path, start: Callable[[list[str]], subprocess.Popen]
) -> None:
    sweep = tmp_path / "sweep"
    driver = start(words(data, sweep, "--retries", "0", num_epochs=EPOCHS))
    wait_for(lambda: has_reached(sweep, "0"))
    os.kill(workers(driver.pid)[0].pid, signal.SIGKILL)
    assert driver.wait(60) == 1
    (record,) = read_records(sweep / "results.jsonl")
    assert record["status"] == "failed" and "its worker was lost" in record["error"] and record["routed"] is None


def test_one_driver_a_sweep_and_sigterm_ends_it_whole(
    data: Path, tmp_path: Path, start: Callable[[list[str]], subprocess.Popen]
) -> None:
    sweep = tmp_path / "sweep"
    command = words(data, sweep, num_epochs=20 * EPOCHS)
    driver = start(command)
    wait_for(lambda: has_reached(sweep, "0"))
    second = subprocess.run(
        [sys.executable, "-P", "-m", "moleflow_fast.sweep", *command], capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1 and "is in use by another process" in second.stderr
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert not (sweep / "results.jsonl").read_text() and not list(sweep.glob("runs/*/summary.json"))
