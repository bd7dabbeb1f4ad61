"""What a command imports before it knows that it has work to do."""

import gc
import subprocess
import sys

import pytest

from moleflow_fast.heavy_imports import heavy_imports

COMMANDS = ("train", "predict", "evaluate", "export", "export_published", "report", "sweep", "tune", "precompile")
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
    assert done.returncode == 0 and "usage: python -m moleflow_fast" in done.stdout
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
from moleflow_fast.heavy_imports import heavy_imports

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
