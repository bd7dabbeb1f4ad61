"""What a command imports before it knows that it has work to do, and what it does while it imports the rest."""

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moleflow_fast.cli.train import demo_written_beside
from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.demo import MARKER, is_demo, write_demo
from moleflow_fast.system.heavy_imports import heavy_imports

COMMANDS = (
    "train", "predict", "calibrate", "evaluate", "export", "export_published", "report", "sweep", "tune", "precompile",
    "demo",
)  # fmt: skip
SCRIPT = """
import runpy, sys
sys.argv = ["moleflow_fast", {option!r}]
try:
    runpy.run_module("moleflow_fast.{command}", run_name="__main__")
finally:
    heavy = {{"torch", "timm", "matplotlib", "sklearn", "ray", "triton", "numpy", "rich", "PIL"}}
    print("HEAVY", sorted(heavy & set(sys.modules)))
"""


def _run(command: str, option: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(command=command, option=option)
    return subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_nothing_heavy(command: str) -> None:
    done = _run(command, "--help")
    assert done.returncode == 0 and f"usage: moleflow {command}" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("command", COMMANDS)
def test_neither_does_a_mistyped_option(command: str) -> None:
    done = _run(command, "--quite")
    assert done.returncode in (1, 2) and "error: " in done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_package_is_imported_without_torch() -> None:
    script = "import sys, moleflow_fast; print(moleflow_fast.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


IMPORTING = """
import gc
from moleflow_fast.system.heavy_imports import heavy_imports

try:
    with heavy_imports():
        print("collects", gc.isenabled())
        {inside}
except ImportError:
    pass
print("collects", gc.isenabled(), "frozen", gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(
    ("inside", "after"), [("import torch", "True frozen True"), ("import no_such_module", "True frozen False")]
)
def test_garbage_is_collected_again_after_imports(inside: str, after: str) -> None:
    command = [sys.executable, "-P", "-c", IMPORTING.format(inside=inside)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["collects False", f"collects {after}"]


def test_objects_of_whoever_has_torch_already_are_not_kept() -> None:
    import torch  # noqa: F401

    before = gc.get_freeze_count()
    with heavy_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_the_demo_set_is_written_while_a_run_is_imported(tmp_path: Path) -> None:
    asked = RunOptions(log_dir=str(tmp_path))
    with demo_written_beside(asked):
        pass
    assert is_demo(asked.demo_folder)
    written = (asked.demo_folder / MARKER).stat().st_mtime_ns
    write_demo(asked.demo_folder)  # as the run asks for it
    assert (asked.demo_folder / MARKER).stat().st_mtime_ns == written


@pytest.mark.parametrize("options", [{"data_path": "images"}, {"dataset": "folder", "data_path": "images"}])
def test_no_demo_set_is_written_for_images_of_ones_own(options: dict[str, Any], tmp_path: Path) -> None:
    asked = RunOptions(log_dir=str(tmp_path), **options)
    with demo_written_beside(asked):
        pass
    assert not asked.demo_folder.exists()


def test_what_is_no_demo_set_is_left_alone(tmp_path: Path) -> None:
    asked = RunOptions(log_dir=str(tmp_path))
    asked.demo_folder.mkdir()
    (asked.demo_folder / "notes.txt").write_text("mine")
    with demo_written_beside(asked):
        pass
    assert [file.name for file in asked.demo_folder.iterdir()] == ["notes.txt"]
