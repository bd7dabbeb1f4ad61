"""Peak memory of one training step: on a GPU by its allocator, on a CPU in a process of its own.

`python bench/peak_memory.py "later task, 28x28" cpp` prints MiB above what the process held before the step:
activations, gradients and scratch, but not weights, optimizer state and features.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from workloads import TrainingSteps

CLEAR_PEAK = "5"  # what to write to /proc/self/clear_refs, see proc(5)


def device_peak_mib(steps: TrainingSteps, patches: Tensor) -> float:
    """MiB of the GPU's memory above what was allocated before a step whose graph, where it has one, is captured anew.

    A replay allocates nothing; what a graph holds shows when it is captured.
    """
    import torch

    steps(patches)  # moments, workspaces and compiled code come with the first
    steps.begin_again()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    steps(patches)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def step_peak_mib(case: str, backend: str) -> float:
    """Run this file for a case of `workloads.STEP_CASES`, on a CPU."""
    command = [sys.executable, "-P", __file__, case, backend]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # errors stay visible
    return float(result.stdout.splitlines()[-1])


def measure(case_name: str, backend: str) -> float:
    import torch
    from workloads import STEP_CASES, TrainingSteps

    case = STEP_CASES[case_name]
    torch.manual_seed(0)
    patches, step = case.patches(), TrainingSteps(case, backend)
    # Optimizer state, thread pools and library scratch come with the first step, of one image. A compiled model
    # would be compiled again for another batch.
    step(patches if backend == "compile" else patches[:1])
    _settle()
    before = _mib("VmRSS")
    step(patches)
    return _mib("VmHWM") - before


def _settle() -> None:
    """Give free memory back, and forget the peak so far."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)


def _mib(name: str) -> float:
    """A figure of /proc/self/status. Not ru_maxrss: a process inherits that from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    print(f"{measure(*sys.argv[1:]):.1f}")
