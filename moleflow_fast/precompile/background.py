"""A run's kernels compiled in a process of their own, while the run reads images and makes features."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.console import Console
from moleflow_fast.precompile.stamp import stamp
from moleflow_fast.system.module_process import start_module

if TYPE_CHECKING:
    from moleflow_fast.kernels.ways_table import Table

Grid = tuple[int, int]


class Precompilation:
    """Compiling of what a run on a GPU launches; nothing where a run like it has already compiled all.

    Args:
        dim: channels of a patch.
        grid: tells the patches of an image, (H, W); asked only where there is something to compile.
        arch: compute capability of the GPU, 90 for sm_90.
        table: by which products are done.
    """

    def __init__(
        self,
        options: RunOptions,
        dim: int,
        grid: Callable[[], Grid],
        arch: int,
        table: Table,
        console: Console,
    ) -> None:
        self._console = console
        self._stamp = stamp(options, dim, arch, table.digest)
        self._process: subprocess.Popen[str] | None = None
        if not self._stamp.exists():
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
            request = {
                "options": options.to_json(),
                "dim": dim,
                "grid": grid(),
                "arch": arch,
                "ways": table.to_json(),
            }
            self._process = _start(request, self._errors)

    def wait(self) -> None:
        """Until all is compiled, with a progress line; what could not be is said, and compiled when it is launched."""
        process, self._process = self._process, None
        if process is None:
            return
        started = time.perf_counter()
        outcome = self._follow(process)
        process.communicate()
        if outcome is None:
            self._console.warn(
                f"kernels could not be compiled beforehand ({self._last_words()}): each is when it is first launched"
            )
            return
        for reason in outcome["failed"]:
            self._console.warn(f"kernel {reason}; its first launch compiles it again and shows the error")
        self._console.say(
            f"kernels        {outcome['kernels']} in {outcome['seconds']:.1f} s, {outcome['there']} were there; "
            f"training waited {time.perf_counter() - started:.1f} s"
        )
        if not outcome["failed"]:
            self._stamp.touch()

    def _follow(self, process: subprocess.Popen[str]) -> dict[str, Any] | None:
        """The last thing that the process says, if that is an outcome."""
        last: dict[str, Any] = {}
        assert process.stdout is not None
        with self._console.counting("compiling", "kernels") as progress:
            for line in process.stdout:
                last = json.loads(line)
                if "done" in last:
                    progress(last["done"], last["total"])
        return last if "kernels" in last else None

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "the process that does it was ended"


def _start(request: dict[str, Any], errors: Any) -> subprocess.Popen[str]:
    process = start_module("moleflow_fast.precompile.child", stderr=errors, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return process
