"""A mark in Triton's cache that all kernels of runs like this one are there: looking costs a few milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import moleflow_fast
from moleflow_fast.config.options import NOT_PART_OF_THE_RESULT, RunOptions

# What decides numbers and no kernel.
_NO_KERNELS = NOT_PART_OF_THE_RESULT | {
    "dataset", "data_path", "task_classes", "cl_scenario", "use_rotation_aug", "rotation_degrees", "backbone_weights",
    "random_backbone", "num_epochs", "lr", "seed", "slow_lr_ratio", "load_checkpoint", "final_eval_only", "device",
    "backend", "extensions", "removed_tasks", "view",
}  # fmt: skip


def stamp(options: RunOptions, dim: int, arch: int, ways: str) -> Path:
    """The file that marks it: of these shapes, GPU, table of ways (its digest), sources and Triton.

    It goes with the cache that it lies in.
    """
    import triton  # where there is no GPU it may not be installed
    from triton._C.libtriton import get_cache_invalidating_env_vars

    shapes = {name: value for name, value in options.to_json().items() if name not in _NO_KERNELS}
    told = [triton.__version__, sorted(get_cache_invalidating_env_vars().items()), _sources(), shapes, dim, arch, ways]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return Path(triton.knobs.cache.dir) / f"moleflow-{digest[:32]}.compiled"


def _sources() -> str:
    """Hash of the package: anything in it may decide what is launched."""
    digest = hashlib.sha256()
    for folder, subfolders, files in os.walk(Path(moleflow_fast.__file__).parent, followlinks=True):
        subfolders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                digest.update(Path(folder, name).read_bytes())
    return digest.hexdigest()
