"""Imports of torch and what builds on it, without the search for garbage that Python makes meanwhile."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from moleflow_fast.system.home import give_home


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Collect no garbage inside, and never look at what was imported again; for commands, which own their process.

    The 430,000 objects that a run imports all stay: looking through them took 27 to 32% of the CPU time of its imports,
    and takes 0.4 s again at each full collection. Where torch is there already, nothing is changed: objects of whoever
    imported it would be kept for good. Libraries that look for the user's home at their import find one.
    """
    give_home()
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
