"""What `import moleflow_fast` does in a bare source folder: it takes the installed package instead.

Python searches the working directory first, so `python -m moleflow_fast.train` finds the sources there. They have no
compiled part until `pip install -e .` puts it beside them.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_PACKAGE = "moleflow_fast"
_REMEDY = "type `pip install -e .` in it, to work on the sources, or `pip install .`"


def leave_source_tree(file: str) -> None:
    """Where the package of this file has no compiled part, put the installed one in its place in `sys.modules`.

    The folder is dropped from `sys.path`, so that processes started from here find the installed package too.

    Raises:
        ImportError: none is installed.
    """
    package = Path(file).parent
    if any((package / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        return
    here = package.parent
    others = [place for place in sys.path if not _is_folder(place, here)]
    if len(others) == len(sys.path):  # nothing else leads here: what was found is what there is
        raise _not_installed(here)
    before, sys.path[:] = list(sys.path), others
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    try:
        import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        sys.path[:] = before
        raise (_not_installed(here) if error.name == _PACKAGE else error) from None


def _is_folder(place: str, folder: Path) -> bool:
    try:
        return os.path.samefile(place or os.curdir, folder)
    except OSError:  # of places that are not there, as Python's own zip file
        return False


def _not_installed(folder: Path) -> ImportError:
    # With its name, `python -m` says this in one line, and shows no traceback.
    return ImportError(f"{folder} holds the sources of {_PACKAGE}, which is not installed: {_REMEDY}", name=_PACKAGE)
