"""The package's public names from their docstrings, as pages: `python -P docs/api.py build/api`, or `make api`."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

import moleflow_fast

# What programs import; the rest is for who works on the package, and is read there.
PACKAGES = (
    "backend", "config", "data", "detector", "errors", "evaluation", "extractors", "inference", "models", "trainer",
    "utils",
)  # fmt: skip


def main(folder: Path) -> None:
    for name in moleflow_fast.__all__:  # pdoc does not ask a module's __getattr__
        setattr(moleflow_fast, name, getattr(moleflow_fast, name))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("moleflow_fast", *(f"moleflow_fast.{name}" for name in PACKAGES), output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
