"""python tests/faults/soak.py --kills 60: kill -9 a run again and again, and see that nothing is lost or different.

Small runs are started, killed, and started again with --resume until they finish; each result must equal that of an
uninterrupted run to the bit: checkpoints, tables, summary, cached features. Two kills in three come at a random moment;
the third hits a write: half a file, before or after a rename or an fsync. All random numbers follow from --seed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from faults.kills import Suicide, ended, forked, kill
from run.small_runs import CLASSES, command_line, summary, write_data

from moleflow_fast import Detector
from moleflow_fast.cli import train

KINDS: dict[str, dict[str, Any]] = {
    "compiled": {"backend": "cpp"},
    "extended": {"backend": "cpp"},
    "eager": {"backend": "eager"},
    "slow stage": {"enable_slow_stage": True, "backend": "cpp"},
    "sequential": {"no_freeze_base": True, "backend": "cpp"},
}
EPOCHS = 8
EVENTS = 160  # a whole run passes through a few more
PATIENCE = 300.0


class SoakFailed(AssertionError):
    """A result that differs, or a run that did not end."""


@dataclass
class Soak:
    """Kills so far, and where they hit."""

    folder: Path
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    starts: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._data = self.folder / "data"
        self._expected: dict[str, dict[str, str]] = {}
        self._seconds: dict[str, float] = {}

    def until(self, kills: int) -> None:
        """Raises SoakFailed at the first difference."""
        self._wait(forked(self._write_data, self.folder / "log"))
        while self.kills.total() < kills:
            kind = list(KINDS)[self.runs % len(KINDS)]
            if kind not in self._expected:
                self._make_expected(kind)
            self._one_run(kind, kills)

    def _write_data(self) -> int:
        write_data(self._data)
        return 0

    def _make_expected(self, kind: str) -> None:
        name = f"expected {kind}"
        self._prepare(kind, name)
        started = time.monotonic()
        self._wait(forked(lambda: self._go_on(kind, name), self.folder / "log"))
        self._seconds[kind] = time.monotonic() - started
        self._expected[kind] = fingerprints(self.folder / name, self.folder / name / "run")

    def _prepare(self, kind: str, name: str) -> None:
        """What a run stands on before its first start."""
        if kind != "extended":
            return
        finished = self.folder / "finished"
        if not finished.exists():
            self._wait(forked(lambda: self._train(kind, "finished", task_classes=CLASSES[:2]), self.folder / "log"))
        shutil.copytree(finished / "run", self.folder / name / "run")

    def _one_run(self, kind: str, most: int) -> None:
        """From its first start to its end."""
        self.runs += 1
        name = f"run {self.runs}"
        self._prepare(kind, name)
        while not self._started(kind, name, harmless=self.kills.total() >= most):
            pass
        found = fingerprints(self.folder / name, self.folder / name / "run")
        if found != self._expected[kind]:
            expected = self._expected[kind]
            different = [n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)]
            raise SoakFailed(f"{name} ({kind}, seed {self.seed}) differs in {', '.join(sorted(different))}")

    def _started(self, kind: str, name: str, harmless: bool) -> bool:
        """Start or go on, and kill; whether it finished before."""
        self.starts += 1
        aimed = self._random.random() < 1 / 3
        event, delay = self._random.randrange(EVENTS), self._random.uniform(0, 0.7) * self._seconds[kind]
        last_word, log = self.folder / "last word", self.folder / "log"
        last_word.unlink(missing_ok=True)

        def work() -> int:
            if aimed and not harmless:
                Suicide(event, last_word).install()
            return self._go_on(kind, name)

        child = forked(work, log)
        code = ended(child, PATIENCE if aimed or harmless else delay)
        if code is None and (aimed or harmless):
            kill(child)
            raise SoakFailed(f"{name} did not end within {PATIENCE:.0f} s:\n{log.read_text()}")
        if code is not None and code > 0:
            raise SoakFailed(f"{name} ended with {code}:\n{log.read_text()}")
        if code == 0:
            return True
        if code is None:
            kill(child)
        self.kills["at a random moment" if code is None else last_word.read_text()] += 1
        if kind == "extended":
            self._wait(forked(lambda: self._detects(name), log))
        return False

    def _go_on(self, kind: str, name: str) -> int:
        return self._extend(name) if kind == "extended" else self._train(kind, name)

    def _train(self, kind: str, name: str, **more: Any) -> int:
        torch.set_num_threads(1)
        place = self.folder / name
        options = {"num_epochs": EPOCHS, "heatmaps": 0, "state_seconds": 0, "experiment_name": "run", **KINDS[kind]}
        resume = (place / "run" / "config.json").exists()
        return train.main(command_line(self._data / "demo", place, resume=resume, **options, **more))

    def _extend(self, name: str) -> int:
        torch.set_num_threads(1)
        place = self.folder / name
        new = ["--data_path", str(self._data / "demo"), "--task_classes", CLASSES[2]]
        return train.main(["--extend", str(place / "run"), *new, "--cache_dir", str(place / "features"), "--quiet"])

    def _detects(self, name: str) -> int:
        """0 if a detector sees the old products, or all."""
        torch.set_num_threads(1)
        detector = Detector.load(self.folder / name / "run")
        seen = [task.class_names for task in detector.calibration.tasks.values()]
        results = detector.predict(self._data / "demo" / CLASSES[0] / "train")
        return int(seen not in ([(c,) for c in CLASSES[:2]], [(c,) for c in CLASSES]) or len(results) == 0)

    def _wait(self, child: int) -> None:
        code = ended(child, PATIENCE)
        if code != 0:
            raise SoakFailed(f"ended with {code}:\n{(self.folder / 'log').read_text()}")


def fingerprints(place: Path, run: Path) -> dict[str, str]:
    """All that must be equal, by file."""
    files = [*(run / "checkpoints").iterdir(), *(run / "evaluation").iterdir()]
    files += [run / "calibration.json", *place.glob("features/*")]
    found = {str(f.relative_to(place)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}
    found["run/epochs.csv"] = str(list(epochs(run / "epochs.csv")))
    found["run/summary.json"] = str(summary(run))
    return found


def epochs(file: Path) -> Iterator[list[str]]:
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            yield [value for name, value in row.items() if name != "seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), args.seed)
        try:
            soak.until(args.kills)
        except SoakFailed as error:
            print(f"FAILED: {error}")
            return 1
        finally:
            print(f"{soak.kills.total()} kills in {soak.starts} starts of {soak.runs} runs, seed {args.seed}")
            for where, count in sorted(soak.kills.items()):
                print(f"{count:6}  {where}")
    print(f"every result equal to an uninterrupted run's, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
