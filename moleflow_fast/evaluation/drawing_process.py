"""Sheets drawn in a process of their own, while the run goes on."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from moleflow_fast.evaluation.sheet import Sheet
from moleflow_fast.system.files import WriteFailed, writing
from moleflow_fast.system.module_process import start_module

WAITING = 4  # sheets at most, of 1 to 7 MB: then the run waits for one
PATIENCE = 10.0  # seconds that the end of a run waits for what was to be drawn
_CHILD = "moleflow_fast.evaluation.drawing_child"
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class DrawingProcess:
    """One process, started when it is first needed, fed by one thread; it ends with its owner, whatever ends that."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "drawing")
        self._process: subprocess.Popen[bytes] | None = None
        self._room = threading.Semaphore(WAITING)
        self._ordered: list[Future[None]] = []

    def draw(self, file: Path, sheet: Callable[[], Sheet]) -> Future[None]:
        """Order a PNG file; `sheet` is called in the thread that feeds the process.

        The future's exceptions are those of `sheet`, and WriteFailed.
        """
        self._room.acquire()
        future = self._thread.submit(self._draw, file, sheet)
        future.add_done_callback(lambda _: self._room.release())
        self._ordered.append(future)
        return future

    def close(self) -> None:
        """End thread and process, after all that was ordered or after `PATIENCE`."""
        late = wait(self._ordered, PATIENCE).not_done
        self._thread.shutdown(wait=False, cancel_futures=True)
        if late and self._process is not None:
            self._process.kill()  # which the thread waits for
        self._thread.shutdown()
        self._end()

    def _draw(self, file: Path, sheet: Callable[[], Sheet]) -> None:
        content = pickle.dumps((file, sheet()), pickle.HIGHEST_PROTOCOL)
        with writing(file):
            answer = self._ask(content)
        if problem := json.loads(answer):
            raise WriteFailed(problem)

    def _ask(self, content: bytes) -> bytes:
        process = self._living()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(content)
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise OSError(f"the process that draws ended with exit code {process.wait()}")
        return answer

    def _living(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:  # not yet, or it was killed
            self._end()
            self._process = start_module(_CHILD, _ONE_THREAD)
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):  # of what it did not read
                self._process.communicate()
