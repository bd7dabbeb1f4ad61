"""Ways to leave a stream and end the program: `python leaving.py RUN IMAGE` prints each with its exit code.

All but the last are forked from a process that has a detector and has started no thread: that takes half a second each.
"""

import atexit
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator

from moleflow_fast import Detector
from moleflow_fast.detector.result import Result

PATIENCE = 30  # seconds for each


alive: list[Generator[Result, None, None]] = []  # when the interpreter ends


def frames(image: str, count: int = 50) -> Iterator[str]:
    for _ in range(count):
        yield image


def camera_without_frames(image: str) -> Iterator[str]:
    yield from frames(image, 3)
    threading.Event().wait()


def left_in_any_way(detector: Detector, image: str) -> None:
    alive.extend(detector.stream(frames(image)) for _ in range(4))
    broken, closed, another, _never_started = alive
    for _, _ in zip(range(3), broken, strict=False):
        pass
    next(closed)
    closed.close()
    next(another)
    next(detector.stream(frames(image)))  # dropped
    cycle = [detector.stream(frames(image))]
    next(cycle[0])
    cycle.append(cycle)  # type: ignore[arg-type]
    del cycle
    gc.collect()


def fails(detector: Detector, image: str) -> None:
    for _ in detector.stream(frames(image)):
        raise ZeroDivisionError


def camera_stands_still(detector: Detector, image: str) -> None:
    alive.append(detector.stream(camera_without_frames(image)))
    for _ in alive[0]:
        sys.exit(3)


def thread_goes_on(detector: Detector, image: str) -> None:
    """One that Python waits for: it has all its results."""

    def work() -> None:
        time.sleep(0.1)  # the main thread has ended
        assert len(list(detector.stream(frames(image, 8)))) == len(detector.predict([image] * 8)) == 8

    threading.Thread(target=work).start()


def at_exit(detector: Detector, image: str) -> None:
    """Handlers that run before and after what ends the threads."""
    next(detector.stream(frames(image)))
    atexit.register(lambda: print(len(detector.predict([image] * 3)), flush=True))


def daemons(detector: Detector, image: str) -> None:
    def work() -> None:
        while True:
            detector.predict(image)

    threading.Thread(target=work, daemon=True).start()
    threading.Thread(target=lambda: list(detector.stream(frames(image, 10_000))), daemon=True).start()
    time.sleep(0.1)


FORKED: dict[Callable[[Detector, str], None], int] = {
    left_in_any_way: 0,
    fails: 1,
    camera_stands_still: 3,
    thread_goes_on: 0,
    at_exit: 0,
}  # exit codes


def main(run: str, image: str) -> None:
    logging.disable(logging.WARNING)
    early: list[Detector] = []
    atexit.register(lambda: [d.predict([image] * 3) for d in early])  # before ours: it runs after it
    detector = Detector.load(run, batch_size=1)
    gc.freeze()  # else each process looks through all that torch has imported when it ends: 4 s and not 1.5
    for way in FORKED:
        child = os.fork()
        if child == 0:
            early.append(detector)
            way(detector, image)
            return  # and the interpreter ends as it does
        print(way.__name__, _outcome(child), flush=True)
    daemons(detector, image)
    print("daemons", 0, flush=True)


def _outcome(child: int) -> int | str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "did not end"


if __name__ == "__main__":
    main(*sys.argv[1:])
