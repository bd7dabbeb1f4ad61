"""On real images too a lower precision costs far less detection quality than another seed does.

The images are five public product categories (docs/results.md) in `MOLEFLOW_REALSET`, shared/realset or
../shared/realset; three of them are learned here, in seconds on a GPU.
"""

import os
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from run.small_runs import run

from moleflow_fast.config import AblationConfig
from moleflow_fast.evaluation.by_class import Evaluation

ROOT = Path(__file__).parents[2]
PLACES = [ROOT / "shared" / "realset", ROOT.parent / "shared" / "realset"]
NAMED = os.environ.get("MOLEFLOW_REALSET")
IMAGES = next((folder for folder in ([Path(NAMED)] if NAMED else PLACES) if folder.is_dir()), None)
WEIGHTS = next(IMAGES.parent.glob("weights/mobilenetv2_100*.safetensors"), None) if IMAGES else None
CLASSES = ("kolektor", "pavement", "pcb_20085")
SEEDS = range(3)
METRICS = ("image_auroc", "pixel_auroc", "pixel_ap")
OPTIONS = {
    "task_classes": CLASSES,
    "img_size": 224,
    "backbone_name": "mobilenetv2_100",
    "backbone_layers": ["blocks.2", "blocks.4"],
    "backbone_weights": str(WEIGHTS) if WEIGHTS else None,
    "random_backbone": WEIGHTS is None,
    "embed_dim": 256,
    "num_coupling_layers": 8,
    "ablation": AblationConfig(lambda_logdet=1e-5, dia_n_blocks=4),
    "lora_rank": 64,
    "num_epochs": 10,
    "lr": 2e-4,
    "batch_size": 16,
    "heatmaps": 0,
}
Measure = Callable[[str], list[Evaluation]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(IMAGES is None, reason="needs the real images: set MOLEFLOW_REALSET to their folder"),
]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """measure(precision): the evaluation after the last task, of each seed."""
    root = tmp_path_factory.mktemp("real")

    @cache
    def evaluations(precision: str) -> list[Evaluation]:
        chosen = {"device": "cuda", "backend": "triton", "precision": precision, "cache_dir": str(root / "features")}
        return [run(IMAGES, root / precision, seed=s, **chosen, **OPTIONS).routed for s in SEEDS]

    return evaluations


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_as_good_as_fp32(precision: str, measure: Measure) -> None:
    exact, found = measure("fp32"), measure(precision)
    print(f"quality: real images, {'ImageNet weights' if WEIGHTS else 'random weights: none were found'}")
    for metric in METRICS:
        expected, values = [e.mean(metric) for e in exact], [e.mean(metric) for e in found]
        noise = statistics.stdev(expected)
        difference = max(abs(a - b) for a, b in zip(values, expected, strict=True))
        mean = statistics.mean(values)
        print(f"quality: {precision}, {metric} {mean:.4f}: {difference:.4f} from fp32, {noise:.4f} between seeds")
        assert difference < noise / 4 + 5e-3, f"{metric}: {values}, fp32 {expected}, between seeds {noise:.4f}"
