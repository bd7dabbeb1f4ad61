"""Whole files."""

import os

import pytest

from moleflow_fast.system.files import replacing


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
