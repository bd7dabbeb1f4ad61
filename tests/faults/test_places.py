"""Users without a home, folders without rights, a container's small /dev/shm."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.mounts import read_only

from moleflow_fast import Detector
from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.extractors.cache import default_directory
from moleflow_fast.run.session import RunResult
from moleflow_fast.system import home
from moleflow_fast.system.files import ReadFailed
from moleflow_fast.system.heavy_imports import heavy_imports

NOBODY = 65534
DECODING = """
import os, sys
from pathlib import Path
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.requests import Picture

assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize <= 65536
decoder = Decoder(1)
pictures = [Picture(Path(path), 224, 224) for path in sys.argv[1:]]
print([batch.shape for batch in decoder.pixels([pictures])])
decoder.close()
"""


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    def no_entry(*_: object) -> None:
        raise KeyError("uid")

    for name in ("HOME", "MOLEFLOW_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home._temporary_home.cache_clear()
    yield tmp_path
    home._temporary_home.cache_clear()


def test_a_user_without_a_home(
    homeless: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = homeless / f"moleflow_fast-{os.getuid()}"
    assert default_directory() == default_directory() == place / ".cache" / "moleflow_fast" / "features"
    assert place.stat().st_mode & 0o777 == 0o700
    assert [r.getMessage() for r in caplog.records if str(place) in r.getMessage()] == [caplog.messages[0]]
    monkeypatch.setenv("HOME", "")  # put back at the end
    del os.environ["HOME"]
    with heavy_imports():
        assert os.environ["HOME"] == str(place)


def test_a_temporary_home_of_somebody_else_is_not_taken(homeless: Path) -> None:
    elsewhere = homeless / "theirs"
    elsewhere.mkdir()
    (homeless / f"moleflow_fast-{os.getuid()}").symlink_to(elsewhere)
    assert homeless in default_directory().parents and elsewhere not in default_directory().resolve().parents


def test_decoding_needs_no_shared_memory(data: Path) -> None:
    files = sorted(map(str, (data / "wood" / "train" / "good").iterdir()))[:4]
    mounted = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-P", "-c", DECODING, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert done.stdout == "[(4, 3, 224, 224)]\n", done.stderr


def test_a_run_in_a_read_only_folder(finished: RunResult, data: Path, tmp_path: Path, capsys, caplog) -> None:
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "run"))
    (copy / "calibration.json").unlink()
    with read_only(copy):
        assert len(Detector.load(copy, "cpu").predict(data / "wood" / "test")) == 6
        assert "the calibration cannot be kept there" in caplog.text
        assert evaluate([str(copy), "--quiet"]) == 1
    said = capsys.readouterr()
    assert "mean (routed)" in said.out and "again.csv could not be written" in said.err


@contextmanager
def somebody_else() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public(finished: RunResult) -> Iterator[Path]:
    """A copy of a run where everybody gets to; pytest's own folders are its user's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield Path(shutil.copytree(finished.directory.path, folder / "run"))
    shutil.rmtree(folder)


def test_a_run_is_readable_by_other_users(public: Path, data: Path) -> None:
    (public / "calibration.json").chmod(0o644)
    with somebody_else():
        Detector.load(public, "cpu")


@pytest.mark.parametrize("name", ["config.json", "calibration.json", "checkpoints", "checkpoints/task_0.json",
                                  "checkpoints/task_0.safetensors", "backbone.safetensors", "."])  # fmt: skip
def test_what_may_not_be_read_is_named(name: str, public: Path) -> None:
    (public / name).chmod(0)
    with somebody_else(), pytest.raises(ReadFailed, match="cannot be read .Permission denied.: give this user"):
        Detector.load(public, "cpu")
    (public / name).chmod(0o755)
