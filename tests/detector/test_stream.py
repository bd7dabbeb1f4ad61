"""Streams: in order, overlapping, in bounded memory."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moleflow_fast import Detector
from moleflow_fast.detector.pipeline import pipelined
from moleflow_fast.run.session import RunResult

WAIT = 10.0  # seconds, at most


def _started_since(before: list[threading.Thread]) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t not in before]


def _settled(reading: list[int]) -> int:
    """Its length once it stops growing."""
    length = -1
    while length != len(reading):
        length = len(reading)
        time.sleep(0.1)
    return length


def test_order_is_kept_though_decoding_is_not_in_order(detector: Detector, data: Path) -> None:
    paths = sorted(data.rglob("test/*/*.png"))
    results = list(detector.stream(paths))
    assert [r.source for r in results] == paths
    assert [r.source for r in detector.stream(str(data / "wood"))] == sorted((data / "wood").rglob("*.png"))
    expected = detector.predict([str(p) for p in paths])
    assert [r.score for r in results] == [r.score for r in expected]

    def decode(i: int) -> int:
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i

    assert list(pipelined(range(50), decode, lambda b: b, lambda b, c: (b, c), 4, 3)) == [(i, i) for i in range(50)]


def test_a_slow_consumer_holds_up_the_reader() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10_000):
            read.append(i)
            yield i

    stream = pipelined(items(), lambda i: i, lambda b: b, lambda b, c: b, batch_size=4, workers=2)
    assert next(stream) == 0
    ahead = _settled(read)
    assert 5 < ahead <= 4 * 4 + 2 * 2
    for i in range(1, 101):
        assert next(stream) == i
    assert _settled(read) <= ahead + 101
    stream.close()


def test_decoding_goes_on_while_the_caller_works() -> None:
    decoded = threading.Event()

    def decode(i: int) -> int:
        if i == 3:
            decoded.set()
        return i

    stream = pipelined(range(8), decode, lambda b: b, lambda b, c: b, batch_size=1, workers=1)
    assert next(stream) == 0
    assert decoded.wait(WAIT)
    assert list(stream) == list(range(1, 8))


def test_results_of_one_image_batches_do_not_wait_for_the_next() -> None:
    more = threading.Event()

    def camera() -> Iterator[int]:
        yield 0
        more.wait(WAIT)
        yield 1

    stream = pipelined(camera(), lambda i: i, lambda b: b, lambda b, c: b, batch_size=1, workers=1)
    assert next(stream) == 0 and not more.is_set()
    more.set()
    assert list(stream) == [1]


def test_errors_come_after_the_results_before_them() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise RuntimeError("camera unplugged")

    stream = pipelined(items(), lambda i: i, lambda b: b, lambda b, c: b, batch_size=2, workers=2)
    assert [next(stream) for _ in range(5)] == list(range(5))
    with pytest.raises(RuntimeError, match="camera unplugged"):
        next(stream)


@pytest.mark.parametrize("stage", ["decode", "score", "finish"])
def test_errors_of_a_stage_reach_the_caller(stage: str) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError(stage)

    stages = {"decode": lambda i: i, "score": lambda b: b, "finish": lambda b, c: b, stage: fail}
    with pytest.raises(RuntimeError, match=stage):
        list(pipelined(iter(range(100)), **stages, batch_size=2, workers=2))


def test_a_stream_that_is_dropped_ends_its_threads() -> None:
    before = threading.enumerate()
    stream = pipelined(iter(int, 1), lambda i: i, lambda b: b, lambda b, c: b, batch_size=2, workers=2)
    next(stream)
    started = _started_since(before)
    assert len(started) >= 3
    stream.close()
    for thread in started:
        thread.join(WAIT)
    assert not any(thread.is_alive() for thread in started)


def test_memory_stays_flat(finished: RunResult, data: Path) -> None:
    code = """
        import gc, itertools, sys
        from pathlib import Path
        from moleflow_fast import Detector

        def resident():
            gc.collect()
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

        run, data = sys.argv[1:]
        paths = itertools.islice(itertools.cycle(sorted(Path(data).rglob("test/*/*.png"))), 1000)
        for i, result in enumerate(Detector.load(run).stream(paths), 1):
            assert result.error is None and result.anomaly_map.shape == (64, 64)
            if i == 200:
                early = resident()
        assert i == 1000
        print(resident() - early)
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(code), str(finished.directory.path), str(data)]
    growth = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert growth < 6
