"""Runs that take a second or two: three synthetic classes, 64 px, a random ResNet-18."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.demo import write_demo
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.session import ContinualRun, RunResult

CLASSES = ("fabric", "gasket", "wood")


def write_data(root: Path) -> Path:
    demo = write_demo(root / "demo", train=6, test_good=3, test_defective=1, size=64)
    for folder in demo.iterdir():
        if folder.is_dir() and folder.name not in CLASSES:
            shutil.rmtree(folder)
    return demo


def arguments(data: Path, logs: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "folder",
        "data_path": str(data),
        "img_size": 64,
        "backbone_name": "resnet18",
        "random_backbone": True,
        "embed_dim": 32,
        "num_coupling_layers": 2,
        "lora_rank": 4,
        "num_epochs": 2,
        "lr": 1e-3,
        "batch_size": 4,
        "num_workers": 0,
        "heatmaps": 2,
        "device": "cpu",
        "log_dir": str(logs),
        "cache_dir": str(logs / "features"),
        "quiet": True,
        **changes,
    }


def run(data: Path, logs: Path, **changes: Any) -> RunResult:
    return ContinualRun(RunOptions(**arguments(data, logs, **changes)), RunConsole(quiet=True)).execute()


def command_line(data: Path, logs: Path, **changes: Any) -> list[str]:
    """What asks for the run that `run` does: the published method, unless another preset is among the changes."""
    argv: list[str] = [] if "preset" in changes else ["--preset", "published"]
    for name, value in arguments(data, logs, **changes).items():
        if value is False or value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        argv += [f"--{name}", *([] if value is True else map(str, values))]
    return argv


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def summary(run: Path) -> dict[str, Any]:
    """What must be equal in equal runs."""
    content = json.loads((run / "summary.json").read_bytes())
    return {name: value for name, value in content.items() if name != "seconds"}
