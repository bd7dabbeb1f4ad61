"""What needs a GPU, part by part as far as the time goes: the figures that matter most come first.

Leaves in RESULTS/cuda: gpu-check.log; rows/PART.jsonl, a line for each benchmark as it is finished; after each part the
result file, tables.md and summary.md as far as they have come; and profile.json, the device's kernels by name. A part
that takes too long is interrupted and keeps the rows that it has. On the screen: a line a part, the tests that failed,
and last the shortest table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).parent))

import row_file  # noqa: E402
from summary import summary  # noqa: E402
from tables import load, tables, write  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
LAST_WORDS = 20.0  # seconds that an interrupted part gets to say what failed
RESULTS = "{results}"  # in a part's arguments and environment: the folder


@dataclass(frozen=True)
class Part:
    """Arguments of Python, and the seconds after which it is interrupted."""

    arguments: tuple[str, ...]
    seconds: float
    environment: tuple[tuple[str, str], ...] = ()


_PYTEST = ("-m", "pytest", "-q", "--tb=short", "-rfE")


def _tests(seconds: float, *arguments: str) -> Part:
    return Part((*_PYTEST, "-n", "8", "--dist", "loadfile", *arguments), seconds, (("OMP_NUM_THREADS", "1"),))


def _benchmarks(seconds: float, names: str, rows: str = "") -> Part:
    files = [f"bench/test_{name}.py" for name in names.split()]
    return Part((*_PYTEST, *files, "-k", rows, "--benchmark-only", "--benchmark-quiet"), seconds)


# Seconds are the most that a part may take: the first six fit five minutes, all but the last one twelve. torch.compile
# takes a minute or two a row, so its rows have what is left. What tests ignore takes no GPU.
PARTS = {
    "compile": Part(("-m", "moleflow_fast.precompile", "--precision", "bf16"), 40),
    "smoke": _tests(
        40, "tests/models/test_golden_nf.py", "tests/engine/test_training.py", "tests/engine/test_channel_major.py",
        "-k", "nf_default or nf_ctx5_dia4 or equal_to_single_steps or bf16_operands_are_near",
    ),
    "training_step": _benchmarks(70, "training_step", "not compile"),
    "inference": _benchmarks(50, "inference", "not compile"),
    "profile": Part(("bench/kernel_profile.py", "--results", RESULTS), 30),
    "ways": Part(("-m", "moleflow_fast.tune"), 60, (("MOLEFLOW_CACHE", RESULTS),)),
    "kernels": _benchmarks(50, "kernels"),
    "ops": _benchmarks(40, "ops"),
    "whole_run": _benchmarks(130, "whole_run"),
    "quality": _tests(
        90, "tests/run/test_real_quality.py", "tests/run/test_quality.py", "tests/run/test_precision_options.py",
        "-m", "gpu", "-rfEPs",
    ),
    "tests": _tests(
        110, "tests/kernels", "tests/engine", "tests/models/test_golden_nf.py", "tests/ops/test_gaussian_smooth.py",
        "tests/evaluation/test_device_ranking.py", "tests/evaluation/test_scorer.py", "tests/bench",
        "tests/trainer/test_partial_state.py", "--ignore=tests/kernels/test_compiling.py",
        "--ignore=tests/engine/test_flow.py",
    ),
    "torch_compile": _benchmarks(240, "training_step inference", "compile"),
}  # fmt: skip


def run_parts(parts: dict[str, Part], results: Path, seconds: float) -> bool:
    """Whether all that was asked for has passed."""
    give_up = time.monotonic() + seconds
    rows = results / "rows"
    shutil.rmtree(rows, ignore_errors=True)  # what an earlier run measured is not of today
    rows.mkdir(parents=True)
    passed = []
    with (results / "gpu-check.log").open("a") as log:
        for name, part in parts.items():
            left = give_up - time.monotonic()
            if left < LAST_WORDS:
                print(f"{name}: left out, the time is up", flush=True)
                passed.append(False)
                continue
            passed.append(_run(name, part, min(part.seconds, left - LAST_WORDS), log))
            write_results(results)
    return all(passed)


def _run(name: str, part: Part, seconds: float, log: TextIO) -> bool:
    results = Path(log.name).parent.resolve()
    command = [sys.executable, "-P", *(word.replace(RESULTS, str(results)) for word in part.arguments)]
    environment = {
        **os.environ,
        "MOLEFLOW_GPU_CHECK": "1",  # what is missing is an error here, not a reason to skip
        "COLUMNS": "200",  # a failure's line has room for its reason
        row_file.VARIABLE: str(results / "rows" / f"{name}.jsonl"),
        **{variable: value.replace(RESULTS, str(results)) for variable, value in part.environment},
    }
    log.write(f"\n===== {name}: {' '.join(command)}\n")
    log.flush()
    at, started = Path(log.name).stat().st_size, time.monotonic()
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, process_group=0
    )
    in_time = _wait(process, seconds)
    took = time.monotonic() - started
    said = Path(log.name).read_bytes()[at:].decode(errors="replace")
    print(f"{name}: {took:.0f} s{'' if in_time else ', interrupted'}; {_last_line(said)}", flush=True)
    for line in re.findall(r"^(?:FAILED|ERROR|SKIPPED|quality:) .*", said, re.MULTILINE)[:20]:
        print(f"  {line[:200]}", flush=True)
    return in_time and process.returncode == 0


def _wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it came to its end by itself; nothing of it is left, whatever ends this."""
    in_time = True
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        in_time = False
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return in_time


def _last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip("= ")[:200] if lines else "it said nothing"


def write_results(results: Path) -> None:
    """The result file and the tables of all rows so far, in the order of the parts."""
    files = sorted((results / "rows").glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    if not any(row_file.result(file.read_text()) for file in files):
        return
    result = load(files)
    write(result, results)
    (results / "tables.md").write_text(tables(result))
    (results / "summary.md").write_text(summary(result))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all by default: {' '.join(PARTS)}")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything; what does not fit is left out")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {' '.join(PARTS)}")
    import torch

    # Else nothing would end the part that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not torch.cuda.is_available():
        parser.error("there is no GPU here that torch can use")
    print(torch.cuda.get_device_name(), flush=True)
    folder = options.results / "cuda"
    chosen = {name: part for name, part in PARTS.items() if not options.parts or name in options.parts}
    passed = run_parts(chosen, folder, 60 * options.minutes)
    if (folder / "summary.md").exists():
        print(f"\n{(folder / 'summary.md').read_text()}\nmore in {folder}: tables.md, gpu-check.log")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
