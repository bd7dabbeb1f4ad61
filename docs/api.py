"""The package's public names from their docstrings, as pages: `python -P docs/api.py build/api`, or `make api`."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

import pdoc

import moleflow_fast

# Commands have --help, and kernels are the ops' own.
LEFT_OUT = ("_C", "_compiled", "cli", "kernels")


def main(folder: Path) -> None:
    for name in moleflow_fast.__all__:  # pdoc does not ask a module's __getattr__
        setattr(moleflow_fast, name, getattr(moleflow_fast, name))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("moleflow_fast", *_modules(), output_directory=folder)


def _modules() -> list[str]:
    found = pkgutil.walk_packages(moleflow_fast.__path__, "moleflow_fast.")
    names = [module.name for module in found if not module.name.endswith("__main__")]
    return [name for name in names if name.split(".")[1] not in LEFT_OUT]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
