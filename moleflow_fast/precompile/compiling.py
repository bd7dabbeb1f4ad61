"""Compiling launches side by side.

Threads, not processes: Triton's passes and the assembler leave Python's lock alone for nine tenths of the time. On two
cores the 48 kernels of a default run in bf16 take 12.1 s one after another and 6.4 s in two threads; processes would
each import torch and Triton first.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from triton import knobs
from triton.backends.nvidia import driver as nvidia

from moleflow_fast.precompile.launches import Launch

MOST_THREADS = 16


class Outcome(NamedTuple):
    """What came of compiling launches.

    Attributes:
        there: how many of the kernels were in Triton's cache.
        failed: "kernel: reason" of each that does not compile.
    """

    kernels: int
    there: int
    failed: list[str]
    seconds: float


def compile_launches(
    launches: Sequence[Launch], arch: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Outcome:
    """Compile for sm_<arch> into Triton's cache what is not there yet.

    Args:
        progress: is told kernels done and kernels in all.
    """
    started = time.perf_counter()
    there = _Hits()
    before, knobs.compilation.listener = knobs.compilation.listener, there
    pool = ThreadPoolExecutor(min(_cores(), MOST_THREADS))
    again: list[Launch] = []
    try:
        waited = {pool.submit(compile_launch, launch, arch): launch for launch in launches}
        progress(0, len(launches))
        for done, future in enumerate(as_completed(waited), 1):
            if future.exception() is not None:
                again.append(waited[future])
            progress(done, len(launches))
        failed = _one_by_one(again, arch)
    finally:
        pool.shutdown(cancel_futures=True)
        knobs.compilation.listener = before
    return Outcome(len(launches), there.count, failed, time.perf_counter() - started)


def _one_by_one(launches: Sequence[Launch], arch: int) -> list[str]:
    """Compile what threads could not; "kernel: reason" of each that fails alone too.

    Python's parser counts its depth for all threads together and may call a switch between them a SystemError
    ("AST constructor recursion depth mismatch", seen with 3.11.7), which Triton may wrap in an error of its own.
    """
    failed = []
    for launch in launches:
        try:
            compile_launch(launch, arch)
        except Exception as error:  # whatever it is, the launch shows it
            failed.append(f"{launch.kernel.__name__}: {_first_line(error)}")
    return failed


def compile_launch(launch: Launch, arch: int) -> None:
    """All that a launch on sm_<arch> needs from Triton's cache."""
    compiled = launch.compiled(arch)
    if hasattr(nvidia, "make_launcher") and _has_driver():
        # Up to Triton 3.6 a C function is built for every signature that is launched: 0.14 s each.
        nvidia.CudaLauncher(compiled.src, compiled.metadata)


def _has_driver() -> bool:
    """Whether there is a libcuda to link with; where there is none nothing is launched either."""
    try:
        nvidia.libcuda_dirs()
    except (AssertionError, OSError, subprocess.CalledProcessError):
        return False
    return True


class _Hits:
    """Counts kernels that Triton found in its cache."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *, cache_hit: bool, **_: Any) -> None:
        self.count += cache_hit


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
