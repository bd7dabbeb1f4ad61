"""An installed wheel, without sources and compilers: trains two products, scores an image, writes the pages.

    python tests/wheel.py

It is for a fresh environment (`make wheels`), which has the wheel and what that depends on.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = [
    "--dataset", "folder", "--task_classes", "fabric", "wood", "--img_size", "64", "--backbone_name", "resnet18",
    "--random_backbone", "--embed_dim", "32", "--num_coupling_layers", "2", "--lora_rank", "4", "--num_epochs", "1",
    "--batch_size", "4", "--device", "cpu",
]  # fmt: skip


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        images = _images(place)
        _run(place, "train", *TRAIN, "--data_path", images, "--log_dir", place / "runs", "--cache_dir", place / "cache")
        (run,) = (config.parent for config in (place / "runs").rglob("config.json"))
        _run(place, "predict", run, images / "wood" / "test", "-o", place / "out", "--html")
        _run(place, "report", run, "-o", place / "report")
        rows = list(csv.DictReader((place / "out" / "scores.csv").open(encoding="utf-8")))
        assert rows and all(float(row["score"]) for row in rows), rows
        for page in ("out/index.html", "report/report.html"):
            assert (place / page).read_text(encoding="utf-8").endswith("</html>\n"), page
    print(f"{len(rows)} images scored without a compiler")
    return 0


def _images(place: Path) -> Path:
    from moleflow_fast.data.demo import write_demo

    return write_demo(place / "demo", train=4, test_good=2, test_defective=1, size=64)


def _run(place: Path, command: str, *arguments: str | Path) -> None:
    environment = {**os.environ, "PATH": str(place), "HOME": str(place)}
    assert not any(shutil.which(name, path=environment["PATH"]) for name in ("cc", "c++", "gcc", "g++", "clang"))
    asked = [sys.executable, "-P", "-m", f"moleflow_fast.{command}", *map(str, arguments)]
    subprocess.run(asked, check=True, cwd=place, env=environment)


if __name__ == "__main__":
    sys.exit(main())
