"""Decoding processes: same bits as here, in order, gone with the run, and never a hang."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from data.builders import save, save_mask

from moleflow_fast.data import DataError
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.drawn_mask import DrawnMask
from moleflow_fast.data.pool import DecodingFailed, DecodingProcesses, InThisProcess
from moleflow_fast.data.requests import FileCheck, Frame, Mask, Picture


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingProcesses]:
    pool = DecodingProcesses(2)
    yield pool
    pool.close()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    return [Picture(save(tmp_path / f"{i}.png", (40 + i, 30), 60 + 5 * i), 16, 16) for i in range(21)]


def processes_of(pool: DecodingProcesses) -> list[psutil.Process]:
    """The one that forks, and those that decode."""
    server = psutil.Process(pool._link._process.pid)
    end = time.monotonic() + 60
    while len(server.children()) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    return [server, *server.children()]


def test_answers_are_those_of_this_process_in_order(pool: DecodingProcesses, pictures: list[Picture]) -> None:
    pixels, problems = pool.submit(pictures).result()
    here, no_problems = InThisProcess().submit(pictures).result()
    assert np.array_equal(pixels, here) and problems == no_problems == [()] * 21
    first = pixels[: 3 * 16 * 16].reshape(3, 16, 16)
    assert np.array_equal(first, pictures[0].answer().arrays[0]) and first.std() > 1


def test_requests_of_several_kinds_and_sizes_lie_one_after_another(pool: DecodingProcesses, tmp_path: Path) -> None:
    image, mask = save(tmp_path / "a.png"), save_mask(tmp_path / "m.png")
    frame = Frame(12, 11, 9)
    requests = [
        FileCheck(image), Mask(mask, 8, 8), FileCheck(image, mask, frame.picture_of(image), frame.mask_of(mask)),
        FileCheck(tmp_path / "none.png", None, frame.picture_of(tmp_path / "none.png")), Picture(image, 13, 10),
    ]  # fmt: skip
    for source in (pool, InThisProcess()):
        pixels, problems = source.submit(requests).result()
        expected = [a.reshape(-1) for r in requests for a in r.answer().arrays]
        expected.insert(3, np.zeros(3 * 11 * 11, np.uint8))  # of the file that is not there
        assert np.array_equal(pixels, np.concatenate(expected))
        assert [len(found) for found in problems] == [0, 0, 0, 1, 0]
        assert problems[3][0].endswith("none.png: no such file")


def test_a_mask_of_more_runs_than_a_message_holds(pool: DecodingProcesses) -> None:
    """Every second pixel of 400 x 300 defective: 120,000 runs of one pixel, 360 kB as a message."""
    long = DrawnMask("annotations.json, image 1", (400, 300), runs=((1,) * 120_000,))
    short = DrawnMask("annotations.json, image 2", (400, 300), runs=((7, 119_993),))
    requests = [Frame(300, 300, 300).mask_of(mask) for mask in (short, long, short)]
    pixels, problems = pool.submit(requests).result()
    assert problems == [(), (), ()] and 0.4 < pixels[90_000:180_000].mean() < 0.6
    assert np.array_equal(pixels, InThisProcess().submit(requests).result()[0])


def test_several_threads_may_ask_at_once(pool: DecodingProcesses, pictures: list[Picture]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected, _ = InThisProcess().submit(pictures).result()
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda _: pool.submit(pictures).result()[0], range(12))
        assert all(np.array_equal(result, expected) for result in results)


def test_a_fault_that_is_no_matter_of_files_keeps_its_traceback(pool: DecodingProcesses) -> None:
    request = Picture(Path("x"), 8, 8)
    request.__dict__["path"] = 3  # no path
    with pytest.raises(RuntimeError, match="in a decoding process:\n(.|\n)*Traceback"):
        pool.submit([request]).result()
    assert pool.submit([]).result()[1] == []


@pytest.mark.parametrize("victim", [0, 1])  # the one that forks, one that decodes
def test_a_killed_process_is_an_error_that_names_the_option(pictures: list[Picture], victim: int) -> None:
    pool = DecodingProcesses(2)
    pool.submit(pictures).result()
    processes = processes_of(pool)
    pending = [pool.submit(pictures * 20) for _ in range(3)]
    processes[victim].kill()
    with pytest.raises(DecodingFailed, match="--num_workers"):
        for some in pending:
            some.result()
    with pytest.raises(DecodingFailed, match="--num_workers"):
        pool.submit(pictures).result()
    assert not psutil.wait_procs(processes[1:], timeout=30)[1]
    pool.close()


def test_processes_end_with_the_pool(pictures: list[Picture]) -> None:
    for close in (True, False):
        pool = DecodingProcesses(2)
        processes = processes_of(pool)
        pending = pool.submit(pictures * 10)
        if close:
            pool.close()
            with pytest.raises(DecodingFailed, match="closed"):
                pending.result()
        del pool
        assert not psutil.wait_procs(processes, timeout=30)[1]


def test_processes_outlive_ctrl_c_and_end_with_a_killed_owner(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from moleflow_fast.data.pool import DecodingProcesses\n"
        "pool = DecodingProcesses(2)\n"
        "pool.submit([]).result()\n"
        "print(pool._link._process.pid, flush=True)\n"
        "assert 'torch' not in sys.modules\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    server = psutil.Process(int(owner.stdout.readline()))
    end = time.monotonic() + 60
    while len(server.children()) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    processes = [server, *server.children()]
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
    assert not any("torch" in file.path for process in processes for file in process.memory_maps())
    owner.kill()
    owner.wait()
    assert not psutil.wait_procs(processes, timeout=30)[1]


def test_no_memory_is_left_behind(pictures: list[Picture]) -> None:
    pool = DecodingProcesses(2)
    pool.submit(pictures).result()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        pixels, _ = pool.submit(pictures).result()
    del pixels
    time.sleep(0.2)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    pool.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_decoder_reads_batches_in_order_and_names_what_it_cannot_read(pictures: list[Picture], workers: int) -> None:
    decoder = Decoder(workers)
    batches = [pictures[:4], pictures[9:3:-1], pictures[20:]]
    for batch, pixels in zip(batches, decoder.pixels(batches), strict=True):
        assert pixels.shape == (len(batch), 3, 16, 16)
        assert all(np.array_equal(a, p.answer().arrays[0]) for a, p in zip(pixels, batch, strict=True))
    pictures[5].path.write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"/5\.png"):
        list(decoder.pixels(batches))
    decoder.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_check_saw_is_not_read_again_until_it_is_forgotten(pictures: list[Picture], workers: int) -> None:
    decoder = Decoder(workers)
    expected = [p.answer().arrays[0] for p in pictures]
    finish = decoder.check([FileCheck(p.path, None, p) for p in pictures])
    assert finish() == []
    for picture in pictures:
        picture.path.unlink()
    (pixels,) = decoder.pixels([pictures])
    assert np.array_equal(pixels, np.stack(expected))
    decoder.forget(pictures[:1])
    assert np.array_equal(next(decoder.pixels([pictures[1:]])), np.stack(expected[1:]))
    with pytest.raises(DataError, match="no such file"):
        list(decoder.pixels([pictures]))
    decoder.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_begun_may_be_forgotten_before_it_is_asked_for(pictures: list[Picture], workers: int) -> None:
    expected = np.stack([p.answer().arrays[0] for p in pictures])
    with closing(Decoder(workers)) as decoder:
        assert decoder.check([FileCheck(p.path, None, p) for p in pictures])() == []
        kept = decoder.begin(pictures)
        decoder.forget(pictures)
        read = decoder.begin(pictures)
        assert np.array_equal(read(), expected)
        for picture in pictures:
            picture.path.unlink()
        assert np.array_equal(kept(), expected) and np.array_equal(read(), expected)
        with pytest.raises(DataError, match="no such file"):
            decoder.begin(pictures)()


def test_a_file_that_cannot_be_used_is_no_matter_of_its_neighbours(tmp_path: Path) -> None:
    image, mask = save(tmp_path / "a.png"), save_mask(tmp_path / "m.png")
    frame, broken = Frame(12, 11, 9), tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    paths = [broken, image]
    for workers in (0, 1):
        with closing(Decoder(workers)) as decoder:
            checks = [FileCheck(path, mask, frame.picture_of(path), frame.mask_of(mask)) for path in paths]
            finish = decoder.check(checks)
            for request in checks[1].pixels:
                (pixels,) = next(decoder.pixels([[request]]))
                assert np.array_equal(pixels, request.answer().arrays[0])
            with pytest.raises(DataError, match="broken"):
                list(decoder.pixels([[checks[0].picture]]))
            assert len(finish()) == 1


def test_a_decoder_keeps_a_share_of_the_free_memory(pictures: list[Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    from moleflow_fast.data import decoder as module

    monkeypatch.setattr(module, "free_memory", lambda: 4 * 10 * 3 * 16 * 16)
    decoder = Decoder()
    checks = [FileCheck(p.path, None, p) for p in pictures]
    assert decoder.has_room_for(checks[:10]) and not decoder.has_room_for(checks[:11])
    assert decoder.check(checks[:6])() == []
    assert decoder.has_room_for(checks[:4]) and not decoder.has_room_for(checks[:5])


def test_reading_ahead_fills_the_room_that_forgetting_gives_back(
    pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    from moleflow_fast.data import decoder as module

    monkeypatch.setattr(module, "free_memory", lambda: 4 * 10 * 3 * 16 * 16)
    decoder = Decoder(2)
    expected = [p.answer().arrays[0] for p in pictures]
    decoder.read_ahead(pictures[:15])
    decoder.read_ahead(pictures[15:])
    assert list(decoder._kept) == pictures[:10]
    assert np.array_equal(next(decoder.pixels([pictures])), np.stack(expected))
    decoder.forget(pictures[:3])
    decoder.read_ahead(pictures[4:])
    assert list(decoder._kept) == pictures[3:13]
    assert np.array_equal(next(decoder.pixels([pictures[3:13]])), np.stack(expected[3:13]))  # all are read by now
    for picture in pictures[3:13]:
        picture.path.unlink()
    assert np.array_equal(next(decoder.pixels([pictures[3:13]])), np.stack(expected[3:13]))
    decoder.close()
