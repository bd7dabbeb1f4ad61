"""Good and bad images through the predict command: forty megabytes here, as many gigabytes as wanted with stream.py."""

from pathlib import Path

import pytest
from faults.many_images import Written, write_many
from faults.stream import PASSES, Look, StreamFailed, check_memory, check_rows, predict, report

from moleflow_fast.run.session import RunResult


@pytest.fixture(scope="module")
def images(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    folder = tmp_path_factory.mktemp("many") / "images"
    return folder, write_many(folder, sorted(data.rglob("test/*/*.png")), 40e6, megapixels=1, rounds=1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSES)
def test_every_file_has_its_row_and_memory_is_flat(
    name: str, finished: RunResult, images: tuple[Path, Written], tmp_path: Path
) -> None:
    folder, files = images
    done = predict(finished.directory.path, folder, tmp_path / "out", PASSES[name])
    check_rows(done, tmp_path / "out", files, pictures=not PASSES[name])
    print(report(name, done, files))
    # Of so few files the largest one decides in which half the peak is: up to 80 MiB either way.
    check_memory(done.looks, len(files), more=128 << 20)


def test_memory_that_grows_is_seen() -> None:
    check_memory([Look(row, 900 << 20) for row in range(100)], 100)
    with pytest.raises(StreamFailed, match="memory grows: 1,050 MiB in the earlier half, 1,197 MiB"):
        check_memory([Look(row, (900 + 3 * row) << 20) for row in range(100)], 100)
