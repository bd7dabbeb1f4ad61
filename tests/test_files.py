"""Whole files and locks."""

import os
import signal
import subprocess
import sys

import pytest

from moleflow_fast.system.files import InUse, alone, replacing


def test_failure_leaves_the_old_file(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(file) as temporary:
        temporary.write_text("new")
        raise RuntimeError("half way")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    happened = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: happened.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: happened.append("replace") or replace(a, b))
    with replacing(tmp_path / "table.csv") as temporary:
        temporary.write_text("new")
    assert happened == [str(temporary), "replace", str(tmp_path)]


def test_lock_keeps_another_process_out_and_dies_with_its_own(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from moleflow_fast.system.files import alone\n"
        "with alone(Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-P", "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InUse, match="the run is in use by another process"), alone(lock, "the run", patience=0.3):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with alone(lock, "the run"):
        pass
