"""Detection quality does not depend on the backend or the precision: far less, at any rate, than on the seed."""

import statistics
from collections.abc import Callable
from functools import cache

import pytest
import torch
from run.small_runs import run

from moleflow_fast.data.demo import write_demo
from moleflow_fast.evaluation.by_class import Evaluation

pytestmark = pytest.mark.slow

CLASSES = ("brushed_metal", "circuit", "tablet")  # neither hopeless nor perfect with a random backbone
SEEDS = range(3)
METRICS = {"image_auroc": 0.75, "pixel_auroc": 0.75, "pixel_ap": 0.1}  # a run that has learned is above these
OPTIONS = {
    "task_classes": CLASSES,
    "embed_dim": 64,
    "num_epochs": 20,
    "lr": 3e-3,
    "batch_size": 8,
    "score_smooth_sigma": 2.0,
    "heatmaps": 0,
}
Measure = Callable[[str, str, str], list[Evaluation]]

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """measure(device, backend, precision): the evaluation after the last task, of each seed."""
    root = tmp_path_factory.mktemp("quality")
    data = write_demo(root / "demo", train=24, test_good=24, test_defective=8, size=64)

    @cache
    def evaluations(device: str, backend: str, precision: str) -> list[Evaluation]:
        chosen = {"device": device, "backend": backend, "precision": precision}
        logs = root / "-".join(chosen.values())
        return [run(data, logs, seed=s, cache_dir=str(root / device), **chosen, **OPTIONS).routed for s in SEEDS]

    return evaluations


@pytest.mark.parametrize(
    ("device", "backend", "precision"),
    [
        ("cpu", "cpp", "fp32"),
        pytest.param("cuda", "triton", "fp32", marks=on_gpu),
        pytest.param("cuda", "triton", "tf32", marks=on_gpu),
        pytest.param("cuda", "triton", "bf16", marks=on_gpu),
    ],
)
def test_as_good_as_plain_pytorch(device: str, backend: str, precision: str, measure: Measure) -> None:
    """All metrics in one test, so that parallel workers do not repeat its runs."""
    plain, found = measure(device, "eager", "fp32"), measure(device, backend, precision)
    for metric, learned in METRICS.items():
        expected, values = [e.mean(metric) for e in plain], [e.mean(metric) for e in found]
        assert statistics.mean(expected) > learned
        noise = statistics.stdev(expected)
        difference = max(abs(a - b) for a, b in zip(values, expected, strict=True))
        print(f"quality: {backend} {precision}, {metric}: {difference:.4f} from plain, {noise:.4f} between seeds")
        assert difference < noise / 4 + 1e-3, f"{metric}: {values}, plain {expected}, between seeds {noise:.4f}"
