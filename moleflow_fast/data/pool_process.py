"""The decoding processes of a run: `python -m moleflow_fast.data.pool_process JOBS ANSWERS PROCESSES`, see `pool`.

One process imports what all need and forks them. They take jobs from one socket, whoever is free, and write what they
make into the memory that came with the job. They end when that socket does, which the system closes with the run.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import sys
import traceback

from PIL import Image

from moleflow_fast.data.requests import Answer, Request

LARGEST_MESSAGE = 1 << 18  # bytes
_PR_SET_PDEATHSIG = 1
_LONGEST_TRACEBACK = 4000


def main() -> int:
    jobs, answers = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group of the run, which still needs its images
    Image.preinit()
    children = {_fork(jobs, answers) for _ in range(int(sys.argv[3]))}
    jobs.close()
    while children:
        child, status = os.wait()
        children.discard(child)
        if status:
            answers.send(pickle.dumps((None, _cause(status))))
            return 1  # the others end with this process
    return 0


def _fork(jobs: socket.socket, answers: socket.socket) -> int:
    server = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == server:  # it may have died before
            _work(jobs, answers)
        code = 0
    except (BrokenPipeError, ConnectionResetError):
        code = 0  # the run has ended
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _work(jobs: socket.socket, answers: socket.socket) -> None:
    while True:
        message, files, *_ = socket.recv_fds(jobs, LARGEST_MESSAGE, 1)
        if not message:
            return
        number, requests = pickle.loads(message)
        try:
            outcome = answered(files[0], requests)
        finally:
            os.close(files[0])
        answers.send(pickle.dumps((number, outcome)))


def answered(memory: int, requests: list[tuple[int, Request]]) -> list[tuple[str, ...]] | str:
    """Answer into a file of memory, each from a byte on.

    Returns:
        What is wrong with each, or a traceback where that is no matter of files.
    """
    try:
        return [_write(memory, place, request.answer()) for place, request in requests]
    except Exception:
        return traceback.format_exc()[-_LONGEST_TRACEBACK:]


def _write(memory: int, place: int, answer: Answer) -> tuple[str, ...]:
    for array in answer.arrays:
        os.pwrite(memory, array.data, place)
        place += array.nbytes
    return answer.problems


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    sys.exit(main())
