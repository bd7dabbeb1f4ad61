"""A run's kernels in a process beside it: compiled once, waited for, and never in the way."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apart import environment, run_apart

from moleflow_fast.config.options import RunOptions
from moleflow_fast.console import Console

pytest.importorskip("triton")
from moleflow_fast.kernels.ways_table import NO_TABLE  # noqa: E402
from moleflow_fast.precompile.background import Precompilation  # noqa: E402
from moleflow_fast.precompile.compiling import compile_launches  # noqa: E402
from moleflow_fast.precompile.stamp import stamp  # noqa: E402

OPTIONS = RunOptions(num_coupling_layers=1, lora_rank=3, batch_size=4)
DIM, GRID = 16, (4, 5)
CHILD = ("-P", "-m", "moleflow_fast.precompile.child")


class Listening(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Triton's cache, empty; the process beside compiles, where the tests interpret."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return tmp_path


def precompile(options: RunOptions = OPTIONS, grid: Any = lambda: GRID) -> list[str]:
    console = Listening()
    beside = Precompilation(options, DIM, grid, 90, NO_TABLE, console)
    beside.wait()
    beside.wait()  # before every task: once it is done there is nothing to wait for
    return console.said


def marked(options: RunOptions, dim: int, arch: int) -> Path:
    return stamp(options, dim, arch, NO_TABLE.digest)


def never() -> tuple[int, int]:
    raise AssertionError("asked for the grid of images though all is compiled")


@pytest.mark.slow
def test_a_second_run_finds_all_compiled_at_once(cache: Path) -> None:
    (said,) = precompile()
    assert said.startswith("kernels        ") and " 0 were there" in said
    assert len(list(cache.rglob("*.cubin"))) == int(said.split()[1]) > 20
    started = time.perf_counter()
    assert precompile(grid=never) == []
    assert time.perf_counter() - started < 1.0  # 0.02 s on two idle cores
    assert marked(OPTIONS, DIM, 90).exists()
    deeper = RunOptions(num_coupling_layers=2, lora_rank=3, batch_size=4)
    others = (marked(deeper, DIM, 90), marked(OPTIONS, 32, 90), marked(OPTIONS, DIM, 80))
    assert not any(other.exists() for other in others)
    assert marked(RunOptions(num_coupling_layers=1, lora_rank=3, batch_size=4, seed=7), DIM, 90).exists()


def test_a_run_goes_on_where_nothing_can_be_compiled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    (said,) = precompile()
    assert said.startswith("warning: kernels could not be compiled beforehand (RuntimeError: TRITON_INTERPRET=1")
    assert not marked(OPTIONS, DIM, 90).exists()


def test_a_kernel_that_does_not_compile_is_named_and_the_others_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moleflow_fast.precompile.compiling._has_driver", lambda: False)
    compiled: list[int] = []

    def good(arch: int) -> Any:
        compiled.append(arch)
        return SimpleNamespace(src=None, metadata=None)

    def bad(arch: int) -> Any:
        raise ValueError("no such instruction\nat line 3")

    kinds: Sequence[Any] = (good, bad, good)
    shown: list[tuple[int, int]] = []
    some: list[Any] = [SimpleNamespace(kernel=SimpleNamespace(__name__=kind.__name__), compiled=kind) for kind in kinds]
    outcome = compile_launches(some, 70, lambda done, total: shown.append((done, total)))
    assert outcome.failed == ["bad: no such instruction"] and compiled == [70, 70]
    assert shown == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_process_ends_with_its_parent(cache: Path) -> None:
    """A killed parent leaves nothing behind that compiles: its end of the pipe is closed."""
    child = subprocess.Popen(
        [sys.executable, *CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(cache), text=True
    )
    assert child.stdin is not None and child.stdout is not None
    request = {"options": OPTIONS.to_json(), "dim": DIM, "grid": GRID, "arch": 90, "ways": NO_TABLE.to_json()}
    child.stdin.write(json.dumps(request) + "\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline())["done"] == 0  # it is at work
    child.stdin.close()
    assert child.wait(timeout=20) == 1
    child.stdout.close()


@pytest.mark.slow
def test_the_command_says_what_it_compiled(tmp_path: Path) -> None:
    words = ("-P", "-m", "moleflow_fast.precompile", "--dim", "16", "--images", "2", "--grid", "4")
    first = run_apart(*words, "--arch", "90", cache=tmp_path)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].startswith("compiling ") and lines[1].endswith(", 0 were there")
    again = run_apart(*words, "--arch", "90", cache=tmp_path).stdout.splitlines()[1]
    assert again.endswith(f", {again.split()[0]} were there")


@pytest.mark.parametrize("error", [SystemError, ValueError], ids=["as it is", "wrapped"])
def test_what_threads_get_in_each_others_way_of_is_compiled_alone(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's parser is not made for several threads: its SystemError says nothing of the kernel."""
    tries: dict[str, int] = {}

    def compiled(arch: int, name: str, always: bool) -> None:
        tries[name] = tries.get(name, 0) + 1
        if always or tries[name] == 1:
            raise error("AST constructor recursion depth mismatch")

    def launch(name: str, always: bool) -> Any:
        kernel = SimpleNamespace(__name__=name)
        return SimpleNamespace(kernel=kernel, compiled=lambda arch: compiled(arch, name, always))

    monkeypatch.setattr("moleflow_fast.precompile.compiling._has_driver", lambda: False)
    outcome = compile_launches([launch("once", False), launch("always", True)], 90)
    assert outcome.failed == ["always: AST constructor recursion depth mismatch"]
    assert tries == {"once": 2, "always": 2}
