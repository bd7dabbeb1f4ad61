"""Ways to leave a stream and end the program: `python leaving.py RUN IMAGE` tries each in a process of its own.

Each forks from a process that has a detector and has computed nothing yet, so that all of them take a second or two.
"""

import atexit
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from moleflow_fast import Detector

PATIENCE = 30  # seconds for each


def frames(image: str, count: int = 50) -> Iterator[str]:
    for _ in range(count):
        yield image


def camera_without_frames(image: str) -> Iterator[str]:
    yield from frames(image, 3)
    threading.Event().wait()


def breaks(detector: Detector, image: str) -> None:
    global stream  # alive when the interpreter ends
    stream = detector.stream(frames(image))
    for _, _ in zip(range(3), stream, strict=False):
        pass


def closes(detector: Detector, image: str) -> None:
    stream = detector.stream(frames(image))
    next(stream)
    stream.close()


def drops(detector: Detector, image: str) -> None:
    next(detector.stream(frames(image)))
    gc.collect()


def in_a_cycle(detector: Detector, image: str) -> None:
    stream = detector.stream(frames(image))
    next(stream)
    cycle = [stream]
    cycle.append(cycle)  # type: ignore[arg-type]


def fails(detector: Detector, image: str) -> None:
    for _ in detector.stream(frames(image)):
        raise ZeroDivisionError


def never_starts(detector: Detector, image: str) -> None:
    global stream
    stream = detector.stream(frames(image))


def several(detector: Detector, image: str) -> None:
    global stream
    stream = [detector.stream(frames(image)) for _ in range(3)]  # type: ignore[assignment]
    for one in stream:
        next(one)


def exits(detector: Detector, image: str) -> None:
    for _ in detector.stream(frames(image)):
        sys.exit(0)


def camera_stands_still(detector: Detector, image: str) -> None:
    global stream
    stream = detector.stream(camera_without_frames(image))
    next(stream)


def thread_goes_on(detector: Detector, image: str) -> None:
    """One that Python waits for: it has all its results."""

    def work() -> None:
        time.sleep(0.1)  # the main thread has ended
        assert len(list(detector.stream(frames(image, 8)))) == len(detector.predict([image] * 8)) == 8

    threading.Thread(target=work).start()


def daemon_streams(detector: Detector, image: str) -> None:
    threading.Thread(target=lambda: list(detector.stream(frames(image, 10_000))), daemon=True).start()
    time.sleep(0.1)


def daemon_predicts(detector: Detector, image: str) -> None:
    def work() -> None:
        while True:
            detector.predict(image)

    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.1)


def at_exit(detector: Detector, image: str) -> None:
    """Handlers that run before and after what ends the threads."""
    next(detector.stream(frames(image)))
    atexit.register(lambda: print(len(detector.predict([image] * 3)), flush=True))


WAYS: dict[str, Callable[[Detector, str], None]] = {
    way.__name__: way
    for way in (
        breaks, closes, drops, in_a_cycle, fails, never_starts, several, exits, camera_stands_still, thread_goes_on,
        daemon_streams, daemon_predicts, at_exit,
    )
}  # fmt: skip
FAILS = {"fails": 1}


def main(run: str, image: str) -> None:
    logging.disable(logging.WARNING)
    early: list[Detector] = []
    atexit.register(lambda: [d.predict([image] * 3) for d in early])  # before ours: it runs after it
    detector = Detector.load(run, batch_size=1)
    for name, way in WAYS.items():
        child = os.fork()
        if child == 0:
            early.append(detector)
            way(detector, image)
            return  # and the interpreter ends as it does
        print(name, _outcome(child), flush=True)
    os._exit(0)


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
