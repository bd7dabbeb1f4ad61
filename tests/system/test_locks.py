"""Locks between processes, threads and forks."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moleflow_fast.extractors import cache_files
from moleflow_fast.system.locks import InUse, acquired, alone, lock_file


def test_lock_keeps_another_process_out_and_dies_with_its_own(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from moleflow_fast.system.locks import alone\n"
        "with alone(Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-P", "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(InUse, match="the run is in use by another process"), alone(lock, "the run", patience=0.3):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with alone(lock, "the run"):
        pass


def test_one_thread_may_let_go_of_what_another_holds(tmp_path: Path) -> None:
    held = lock_file(tmp_path / "lock")
    assert acquired(held, patience=0) and not acquired(lock_file(tmp_path / "lock"), patience=0)
    thread = threading.Thread(target=held.release)
    thread.start()
    thread.join()
    assert not held.is_locked
    with lock_file(tmp_path / "lock"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_what_its_parent_lets_go(tmp_path: Path) -> None:
    held = lock_file(tmp_path / "lock")
    assert acquired(held, patience=0)
    ends, end = os.pipe()
    child = os.fork()
    if not child:
        os.read(ends, 1)
        os._exit(0)
    held.release()
    assert acquired(lock_file(tmp_path / "lock"), patience=0)
    os.write(end, b".")
    assert os.waitpid(child, 0)[1] == 0


def test_who_waits_for_a_lock_whose_file_is_removed_gets_the_new_one(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with cache_files.lock(tmp_path, "abc"):
            order.append("second")
            assert not acquired(lock_file(tmp_path / "abc.lock"), patience=0)

    thread = threading.Thread(target=second)
    with cache_files.lock(tmp_path, "abc"):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and not list(tmp_path.iterdir())
