"""A mark in Triton's cache that all kernels of runs like this one are there: looking costs a few milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import moleflow_fast
from moleflow_fast.config.identity import result_options
from moleflow_fast.config.option import Work
from moleflow_fast.config.options import OPTIONS, RunOptions


def stamp(options: RunOptions, dim: int, arch: int, ways: str) -> Path:
    """The file that marks it: of these shapes, GPU, table of ways (its digest), sources and Triton.

    It goes with the cache that it lies in.
    """
    import triton  # where there is no GPU it may not be installed
    from triton._C.libtriton import get_cache_invalidating_env_vars

    variables = sorted(get_cache_invalidating_env_vars().items())
    told = [triton.__version__, variables, _sources(), _shapes(options), dim, arch, ways]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return Path(triton.knobs.cache.dir) / f"moleflow-{digest[:32]}.compiled"


def _shapes(options: RunOptions) -> dict[str, Any]:
    """The options that may decide which kernels are launched, all of the method's among them."""
    values = result_options(options)
    return {n: value for n, value in values.items() if n not in OPTIONS or OPTIONS[n].work is Work.KERNELS}


def _sources() -> str:
    """Hash of the package: anything in it may decide what is launched."""
    digest = hashlib.sha256()
    for folder, subfolders, files in os.walk(Path(moleflow_fast.__file__).parent, followlinks=True):
        subfolders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                digest.update(Path(folder, name).read_bytes())
    return digest.hexdigest()
