"""python tests/faults/stream.py --gigabytes 2: every file gets its row, and memory does not grow.

A small run is trained, gigabytes of good and bad images are written, and the predict command goes through them twice:
with overlays and masks, and with a page instead. Each bad file must be a row with an error, each good one a score, and
the peak memory of the later half little above that of the earlier half. All random numbers follow from --seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from faults.many_images import Written, write_many
from run.small_runs import run, write_data

PASSES = {"with overlays and masks": (), "with a page": ("--html", "--no_pictures")}
SECONDS = 0.1  # between two looks at the memory
FACTOR, MORE = 1.05, 48 << 20  # allowed: times the earlier half's peak, plus what the C library keeps of freed memory
SOME_UNREADABLE = 2


class StreamFailed(AssertionError):
    """A missing row, a wrong one, or memory that grows."""


@dataclass(frozen=True)
class Look:
    """At a process that is on its way."""

    rows: int
    resident: int
    """Bytes, with its children's."""


@dataclass(frozen=True)
class Pass:
    """One call of the command, from start to end."""

    code: int
    seconds: float
    looks: list[Look]
    words: str


def train_small(folder: Path) -> tuple[Path, list[Path]]:
    """A run directory, and the test images of its products."""
    data = write_data(folder / "data")
    with contextlib.redirect_stdout(io.StringIO()):
        finished = run(data, folder / "logs", heatmaps=0, experiment_name="run")
    return finished.directory.path, sorted(data.rglob("test/*/*.png"))


def predict(trained: Path, images: Path, out: Path, options: Sequence[str]) -> Pass:
    """Run the command and look at its memory until it ends."""
    command = [sys.executable, "-P", "-m", "moleflow_fast.predict", str(trained), str(images), "-o", str(out), *options]
    looks = []
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen([*command, "--quiet"], stdout=words, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            looks.append(Look(_rows_so_far(out), _resident(watched)))
            time.sleep(SECONDS)
        words.seek(0)
        return Pass(process.returncode, time.monotonic() - started, looks, words.read())


def _rows_so_far(out: Path) -> int:
    file = out / "scores.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


# -- what must hold ------------------------------------------------------------------------------------


def check_rows(done: Pass, out: Path, files: Written, pictures: bool) -> None:
    """
    Raises:
        StreamFailed: not exactly one right row for each file, or another exit code than these files call for.
    """
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    failed = {Path(row["path"]) for row in rows if row["label"] == "error"}
    scored = {Path(row["path"]) for row in rows if row["score"] is not None}
    wanted = SOME_UNREADABLE if files.unreadable else 0
    _require(done.code == wanted, f"exit code {done.code}, not {wanted}:\n{done.words}")
    _require(len(rows) == len(files), f"{len(rows)} rows for {len(files)} files")
    _require(failed == files.unreadable, f"errors of the wrong files: {sorted(failed ^ files.unreadable)[:5]}")
    _require(scored == files.readable, f"no score, or one too many: {sorted(scored ^ files.readable)[:5]}")
    _require(all(str(Path(row["path"])) in row["error"] for row in rows if row["error"]), "an error without its file")
    drawn = {row[kind] for row in rows for kind in ("overlay", "mask") if row[kind]}
    _require(len(drawn) == 2 * len(scored) * pictures, f"{len(drawn)} pictures of {len(scored)} images")
    _require(all((out / name).stat().st_size > 0 for name in drawn), "a picture without content")


def check_memory(looks: Sequence[Look], total: int, more: int = MORE) -> None:
    """
    Raises:
        StreamFailed: the later half takes more than the earlier one.
    """
    early, late = peaks_of_halves(looks, total)
    _require(late <= FACTOR * early + more, f"memory grows: {mib(early)} in the earlier half, {mib(late)} in the later")


def peaks_of_halves(looks: Sequence[Look], total: int) -> tuple[int, int]:
    """Bytes."""
    earlier = [look.resident for look in looks if look.rows <= total / 2]
    later = [look.resident for look in looks if look.rows > total / 2]
    _require(bool(earlier and later), "too few looks at the memory: more gigabytes are needed")
    return max(earlier), max(later)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StreamFailed(otherwise)


# -- what is said --------------------------------------------------------------------------------------


def report(name: str, done: Pass, files: Written) -> str:
    early, late = peaks_of_halves(done.looks, len(files))
    first_row = next(i for i, look in enumerate(done.looks) if look.rows)
    seconds = done.seconds - first_row * SECONDS
    return (
        f"{name}: {len(files)} files in {done.seconds:.0f} s, {len(files) / seconds:.1f} images/s after the start; "
        f"{len(files.unreadable)} errors in rows, exit code {done.code}\n"
        f"  memory at 10%..100%: {_by_tenths(done.looks, len(files))}\n"
        f"  peak {mib(max(early, late))}; later half {mib(late)} against {mib(early)}: {late / early - 1:+.1%}"
    )


def _by_tenths(looks: Sequence[Look], total: int) -> str:
    """The peak of each; - where it was over between two looks."""
    peaks: dict[int, int] = {}
    for look in looks:
        tenth = min(10, 10 * look.rows // total + 1)
        peaks[tenth] = max(look.resident, peaks.get(tenth, 0))
    return ", ".join(mib(peaks[tenth]) if tenth in peaks else "-" for tenth in range(1, 11))


def mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def page_words(out: Path, files: Written) -> str:
    """How large the page is, apart from its pictures."""
    text = (out / "index.html").read_text(encoding="utf-8")
    pictures = sum(map(len, re.findall(r"data:image/jpeg;base64,[^\"]*", text)))
    return f"  page {mib(len(text))}, {(len(text) - pictures) / len(files):,.0f} bytes a row besides pictures"


def stream(folder: Path, args: argparse.Namespace) -> None:
    """Raises StreamFailed."""
    trained, products = train_small(folder)
    started = time.monotonic()
    files = write_many(folder / "images", products, 1e9 * args.gigabytes, args.megapixels, args.bodies, args.seed)
    print(
        f"{len(files)} files, {files.bytes / 1e9:.2f} GB, {len(files.unreadable)} of them bad, seed {args.seed}; "
        f"written in {time.monotonic() - started:.0f} s",
        flush=True,
    )
    for name, options in PASSES.items():
        out = folder / name
        done = predict(trained, folder / "images", out, options)
        check_rows(done, out, files, pictures=not options)
        print(report(name, done, files), flush=True)
        if options:
            print(page_words(out, files))
        check_memory(done.looks, len(files))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--megapixels", type=float, default=8, help="of the largest photographs")
    parser.add_argument("--bodies", type=int, default=3, help="photographs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            stream(Path(folder), args)
        except StreamFailed as error:
            print(f"FAILED: {error}")
            return 1
    print("every file has its row, and memory is flat")
    return 0


if __name__ == "__main__":
    sys.exit(main())
