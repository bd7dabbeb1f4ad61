"""Decoding processes for a whole run, fed from any of its threads.

What they make comes back through anonymous memory that both sides have, so a picture is copied once, and nothing is
left in /dev/shm however the run ends. One 224 px picture is 150,528 bytes; its request and answer about 100.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import pickle
import queue
import socket
import subprocess
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Protocol

import numpy as np

from moleflow_fast.errors import UserError
from moleflow_fast.system.module_process import start_module

from .pool_process import LARGEST_MESSAGE, answered
from .requests import Request, bytes_of, placed

# A job: of a few files, so that handing it over costs little (2 to 20 ms a picture, and up to 5 for Python's lock
# while the run imports), and no process has many left when the others are done.
_FILES_OF_A_JOB = 8
# Of a job as a message: a socket takes 208 KiB at once. Masks given by lengths of runs may be longer.
_LARGEST_JOB = 1 << 17

Problems = list[tuple[str, ...]]
logger = logging.getLogger(__name__)


class DecodingFailed(UserError):
    """The decoding processes are gone."""


class Pending(Protocol):
    """Requests on their way. What they are answered with stays the same at every call."""

    def result(self) -> tuple[np.ndarray, Problems]:
        """Wait for all: their arrays' bytes one after another (n,), uint8, and what is wrong with each request.

        Raises:
            DecodingFailed: a process has died.
        """

    def one(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Wait for one of the requests, and at most a few beside it: its bytes (n,), and what is wrong with it."""


def processes_here(wanted: int) -> int:
    """How many can decode on this system: as many as are wanted on Linux, none elsewhere, which is said."""
    if not wanted or hasattr(os, "memfd_create"):
        return wanted
    logger.warning("decoding processes need Linux: the run's own process decodes; --num_workers 0 asks for that")
    return 0


class Pool(Protocol):
    """Something that answers requests."""

    def submit(self, requests: Sequence[Request]) -> Pending:
        """Does not wait."""

    def close(self) -> None:
        """End processes; what is pending fails."""


class InThisProcess:
    """Answers when asked for the result, in the caller's thread."""

    def submit(self, requests: Sequence[Request]) -> Pending:
        return _Postponed(requests)

    def close(self) -> None:
        pass


class DecodingProcesses:
    """So many processes, started at once and used until `close`, or until nobody has the pool any more."""

    def __init__(self, processes: int) -> None:
        self._link = _Link(processes)
        self._finalizer = weakref.finalize(self, self._link.close)

    def close(self) -> None:
        self._finalizer()

    def submit(self, requests: Sequence[Request]) -> Pending:
        memory = _Memory(sum(map(bytes_of, requests)))
        starts = range(0, len(requests), _FILES_OF_A_JOB)
        pairs = placed(requests)
        jobs = [self._link.send(memory, pairs[i : i + _FILES_OF_A_JOB]) for i in starts]
        return _Elsewhere(memory, pairs, jobs)


class _Postponed:
    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests

    def result(self) -> tuple[np.ndarray, Problems]:
        return self._outcome

    def one(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        pixels, problems = self._outcome
        return _part(pixels, self._placed[index]), problems[index]

    @cached_property
    def _placed(self) -> list[tuple[int, Request]]:
        return placed(self._requests)

    @cached_property
    def _outcome(self) -> tuple[np.ndarray, Problems]:
        memory = np.zeros(sum(map(bytes_of, self._requests)), np.uint8)
        problems = []
        for place, request in self._placed:
            answer = request.answer()
            problems.append(answer.problems)
            for array in answer.arrays:
                memory[place : place + array.nbytes] = array.reshape(-1)
                place += array.nbytes
        return memory, problems


class _Elsewhere:
    def __init__(self, memory: _Memory, requests: list[tuple[int, Request]], jobs: list[Future[Problems]]) -> None:
        self._memory = memory
        self._requests = requests
        self._jobs = jobs

    def result(self) -> tuple[np.ndarray, Problems]:
        problems = [found for job in self._jobs for found in job.result()]
        pixels = self._pixels
        self._memory.close()
        return pixels, problems

    def one(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        job, place = divmod(index, _FILES_OF_A_JOB)
        problems = self._jobs[job].result()[place]
        return _part(self._pixels, self._requests[index]), problems

    @cached_property
    def _pixels(self) -> np.ndarray:
        return self._memory.array()


class _Memory:
    """Anonymous, and reachable by whoever is sent its file descriptor."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.file = os.memfd_create("moleflow-pixels", os.MFD_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self.file)  # once nobody is to be sent it; arrays stay
        os.ftruncate(self.file, size)

    def array(self) -> np.ndarray:
        """All bytes (n,), uint8; they live as long as this array."""
        return np.frombuffer(mmap.mmap(self.file, self.size), np.uint8) if self.size else np.empty(0, np.uint8)


class _Link:
    """The conversation with the processes; its threads keep it alive until it is closed."""

    def __init__(self, processes: int) -> None:
        self._jobs, jobs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._answers, answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with jobs, answers:
            self._process = _start(processes, jobs, answers)
        self._outbox: queue.SimpleQueue[tuple[_Memory, bytes] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # `close` may come from the collection of garbage, within any other call
        self._owner = os.getpid()
        self._awaited: dict[int, Future[Problems]] = {}
        self._sent = 0
        self._end: str | None = None
        for work in (self._send_all, self._receive_all):
            threading.Thread(target=work, daemon=True, name=f"moleflow-decode{work.__name__}").start()

    def send(self, memory: _Memory, requests: list[tuple[int, Request]]) -> Future[Problems]:
        """Have requests answered into `memory`, each from a byte on."""
        future: Future[Problems] = Future()
        with self._lock:
            if self._end is not None:
                raise DecodingFailed(self._end)
            number = self._sent = self._sent + 1
            self._awaited[number] = future
            message = pickle.dumps((number, requests))
            fits = len(message) <= _LARGEST_JOB
            if fits:
                self._outbox.put((memory, message))
        if not fits:
            self._take(number, answered(memory.file, requests))
        return future

    def close(self) -> None:
        if os.getpid() != self._owner:  # a forked process ends: its parent still reads images
            return
        self._fail("the decoding processes were closed")
        with contextlib.suppress(OSError):  # closed by its thread
            self._jobs.shutdown(socket.SHUT_RDWR)  # a copy in some forked process must not keep it open
        self._outbox.put(None)
        self._process.kill()
        self._process.wait()

    def _send_all(self) -> None:
        with self._jobs:
            while (job := self._outbox.get()) is not None:
                memory, message = job
                try:
                    socket.send_fds(self._jobs, [message], [memory.file])
                except OSError:
                    return  # the other thread says why
                del job, memory  # not kept while there is nothing to send

    def _receive_all(self) -> None:
        with self._answers:
            while message := self._answers.recv(LARGEST_MESSAGE):
                number, outcome = pickle.loads(message)
                if number is None:
                    return self._fail(_died(outcome))
                self._take(number, outcome)
        return self._fail(_died("without a word"))

    def _take(self, number: int, outcome: Problems | str) -> None:
        with self._lock:
            future = self._awaited.pop(number, None)
        if future is None:
            return
        if isinstance(outcome, str):
            future.set_exception(RuntimeError(f"in a decoding process:\n{outcome}"))
        else:
            future.set_result(outcome)

    def _fail(self, reason: str) -> None:
        """Now and from now on; the first reason counts."""
        with self._lock:
            self._end = self._end or reason
            awaited, self._awaited = self._awaited, {}
        for future in awaited.values():
            future.set_exception(DecodingFailed(self._end))


def _died(cause: str) -> str:
    return (
        f"a decoding process ended ({cause}; SIGKILL is what a system out of memory sends); finished tasks are kept: "
        "go on with --resume and a smaller --num_workers, or with 0, which decodes in the run's own process"
    )


def _start(processes: int, jobs: socket.socket, answers: socket.socket) -> subprocess.Popen[bytes]:
    files = (jobs.fileno(), answers.fileno())
    return start_module(
        "moleflow_fast.data.pool_process",
        {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        [*map(str, files), str(processes)],
        stdin=subprocess.DEVNULL,
        stdout=None,
        pass_fds=files,
    )


def _part(pixels: np.ndarray, request: tuple[int, Request]) -> np.ndarray:
    place, what = request
    return pixels[place : place + bytes_of(what)]
