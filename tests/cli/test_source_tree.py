"""Started inside a bare source folder, which Python searches first, the installed package is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import moleflow_fast

PACKAGE = Path(moleflow_fast.__file__).parent
WHERE = """
from importlib.util import find_spec
import moleflow_fast._C
assert find_spec("moleflow_fast.kernels")
print(moleflow_fast._C.__file__)
"""
CHILD = """
import sys
from moleflow_fast.system.module_process import start_module

print(start_module("moleflow_fast.report", arguments=["--help"], stdin=None).communicate()[0].decode().split()[2])
print(start_module("moleflow_fast", arguments=["--help"], stdin=None).communicate()[0].decode().split()[0])
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a clone has them: no compiled part, no kernels."""
    folder = tmp_path_factory.mktemp("clone")
    skipped = shutil.ignore_patterns("*.so", "*.pyd", "kernels", "__pycache__")
    shutil.copytree(PACKAGE, folder / "moleflow_fast", ignore=skipped)
    return folder


def run(sources: Path, *words: str, site: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    if site:
        environment["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, *([] if site else ["-S"]), *words]
    return subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True)


def test_an_import_finds_the_installed_package(sources: Path) -> None:
    done = run(sources, "-c", WHERE)
    assert done.stderr == "" and Path(done.stdout.strip()).parent == PACKAGE


@pytest.mark.parametrize("module", ["moleflow_fast", "moleflow_fast.train"])
def test_so_does_a_module(sources: Path, module: str) -> None:
    done = run(sources, "-m", module, "--help")
    assert done.stderr == "" and done.stdout.split()[0] in ("moleflow", "usage:")


def test_so_do_processes_of_the_package(sources: Path) -> None:
    done = run(sources, "-c", CHILD)
    assert (done.stderr, done.stdout.split()) == ("", ["report", "moleflow"])


def test_where_none_is_installed_it_says_what_to_type(sources: Path) -> None:
    for words in (["-m", "moleflow_fast"], ["-m", "moleflow_fast.train"]):
        done = run(sources, *words, site=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert f"{sources} holds the sources of moleflow_fast, which is not installed" in done.stderr
        assert "type `pip install -e .`" in done.stderr
    done = run(sources, "-c", "import moleflow_fast", site=False)
    assert done.returncode == 1 and "ImportError" in done.stderr and "type `pip install -e .`" in done.stderr
