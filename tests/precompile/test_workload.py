"""Everything that a run launches is found without running it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import run_apart
from small_trainer import DIM, GRID, make_trainer, train

from moleflow_fast.backend import use_backend
from moleflow_fast.config import AblationConfig
from moleflow_fast.config.options import RunOptions
from moleflow_fast.evaluation.scorer import Scorer

pytest.importorskip("triton")
OPTIONS = {"num_coupling_layers": 2, "lora_rank": 3, "batch_size": 4, "img_size": 32, "precision": "fp32"}


@contextmanager
def interpreted() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Kernels and their arguments that are no tensors, as Triton's interpreter is given them in the block."""
    from triton.runtime.interpreter import InterpretedFunction

    launched: list[tuple[str, dict[str, Any]]] = []
    run = InterpretedFunction.run

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        launched.append((kernel.fn.__name__, {**dict(zip(kernel.arg_names, args, strict=False)), **options}))
        return run(kernel, *args, grid=grid, warmup=warmup, **options)

    InterpretedFunction.run = note
    try:
        yield launched
    finally:
        InterpretedFunction.run = run


def variants(launched: Iterable[tuple[str, dict[str, Any]]]) -> set[tuple[Any, ...]]:
    """Kernels with their constants, whose names are in capitals."""
    return {
        (name, *sorted((key, value) for key, value in arguments.items() if key.isupper()))
        for name, arguments in launched
    }


FRONT = {"adapter_mode": "gaussian", "use_whitening_adapter": False, "front_directions": 6}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted where there is a GPU")
@pytest.mark.parametrize(
    "ablation", [pytest.param({}, id="default"), pytest.param(FRONT, id="gaussian", marks=pytest.mark.full)]
)
def test_a_small_run_launches_what_was_found(ablation: dict[str, Any], tmp_path: Path) -> None:
    options = RunOptions(**OPTIONS, ablation=AblationConfig(**ablation))
    with use_backend("triton"), interpreted() as launched:
        trainer = make_trainer(options.ablation, coupling_layers=options.num_coupling_layers)
        for task_id in range(2):
            train(trainer, task_id, epochs=1, images=4)
        scorer = Scorer(trainer.moleflow, options.mask_size, options.score_smooth_sigma, options.interp_mode, 4)
        images = torch.randn(4, DIM, *GRID, generator=torch.Generator().manual_seed(3))
        scorer.pixel_maps(trainer.moleflow.routed(images).maps)
    found = variants(described(tmp_path, ablation))
    assert len(launched) > 50  # of some thirty kernels
    assert variants(launched) - found == set()


@pytest.mark.parametrize(
    ("ablation", "changes", "kernels"),
    [
        ({"use_task_adapter": False}, {}, {"_relu_product", "_move"}),  # inference is task by task
        ({"router_covariance": "pooled"}, {}, {"_whitened_features", "_nearest_whitened"}),
        (FRONT, {"num_epochs": 0}, {"_whitened", "_along_directions"}),
        ({"use_spatial_context": True}, {"enable_slow_stage": True}, {"_depthwise", "_taps_gradient"}),
    ],
)
def test_other_configurations_are_found_too(
    ablation: dict[str, Any], changes: dict[str, Any], kernels: set[str], tmp_path: Path
) -> None:
    assert kernels <= {name for name, _ in described(tmp_path, ablation, **changes)}


def described(cache: Path, ablation: dict[str, Any] | None = None, **changes: Any) -> list[tuple[str, dict[str, Any]]]:
    """Kernels of a small run and their arguments that are no tensors, as they are found on meta tensors."""
    request = {"options": {**OPTIONS, **changes}, "ablation": ablation or {}, "dim": DIM, "grid": GRID}
    done = run_apart(Path(__file__).with_name("describing.py"), json.dumps(request), cache=cache)
    assert done.returncode == 0, done.stderr
    return [(name, arguments) for name, arguments in json.loads(done.stdout)]
