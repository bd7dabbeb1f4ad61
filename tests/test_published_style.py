"""The example in the style of the published package, run as it stands on the demo set."""

import csv
import runpy
from pathlib import Path
from typing import Any

import pytest
from run.small_runs import CLASSES, write_data

from moleflow_fast.extractors import weights

SCRIPT = Path(__file__).parents[1] / "examples" / "published_style.py"
TINY = [
    "--backbone_name", "resnet18", "--img_size", "64", "--msk_size", "64", "--embed_dim", "32", "--num_epochs", "2",
    "--lr", "1e-3", "--batch_size", "4", "--num_coupling_layers", "2", "--lora_rank", "4", "--device", "cpu",
    "--dia_n_blocks", "1",
]  # fmt: skip


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEFLOW_CACHE", str(tmp_path / "features"))
    create = weights.create_backbone
    monkeypatch.setattr("moleflow_fast.extractors.create_backbone", lambda name, _, *rest: create(name, False, *rest))
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    data = write_data(tmp_path)
    results = script["main"](
        ["--dataset", "folder", "--data_path", str(data), "--task_classes", *CLASSES,
         "--log_dir", str(tmp_path / "logs"), "--experiment_name", "script", *TINY]
    )  # fmt: skip
    assert results["classes"] == list(CLASSES) and 0 <= results["mean_img_auc"] <= 1
    with (tmp_path / "logs" / "script" / "final_results.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert [row[1] for row in rows[1:]] == [*CLASSES, "Overall"]
    text = (tmp_path / "logs" / "script" / "script.log").read_text()
    assert "after wood: image AUROC" in text and "routing accuracy" in text and "task 2: done" in text
    assert (tmp_path / "logs" / "script" / "model.pth").stat().st_size > 10_000
