"""The memory that a training step takes on a GPU, counted on meta tensors: what is alive at its fullest moment.

An H200 measured 1.03 times as much of the engine before this one (1,406 MiB in bf16 and 2,144 in fp32, against 1,367
and 2,076 counted): libraries have workspaces of their own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from launches import Launches
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves
from training_steps import TrainingStep

from moleflow_fast.backend import use_backend, use_precision
from moleflow_fast.config import AblationConfig
from moleflow_fast.engine import training
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

META = torch.device("meta")
MEASURED_OVER_COUNTED = 1.04
PUBLISHED = 2415  # MiB of the published arrangement in fp32, on an H200


class Peak(Launches):
    """In the block notes the most bytes that were alive of what was made there; kernels are not run."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def _watch(self, kind: Any) -> None:
        plain = kind.run

        def run(kernel: Any, *args: Any, **options: Any) -> None:
            self.counts[kernel.fn.__name__] += 1

        run.plain = plain  # type: ignore[attr-defined]
        kind.run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(t).cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and _storage(tensor).cdata not in given:
                reference = _storage(tensor)
                self._alive.setdefault(reference.cdata, (reference, tensor.untyped_storage().nbytes()))
        self._alive = {key: own for key, own in self._alive.items() if not own[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._alive.values()))
        return result


def _storage(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def peak_mib(task: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> float:
    """Of the second step of a task of 16 images of 28 x 28 x 768: 8 blocks, DIA 4, rank 64."""
    config = AblationConfig(dia_n_blocks=4)
    with META:
        model = MoLESpatialAwareNF(768, 8, lora_rank=64, device=META, ablation_config=config)
    patches = torch.empty(16, 28, 28, 768, device=META)
    monkeypatch.setattr(training, "_mean", lambda totals: 0.0)  # a meta tensor has no numbers
    with use_backend("triton"), use_precision(precision):
        step = TrainingStep(model, task, META)
        with Peak():
            step.run(patches)
        body = step.body(patches)
        with Peak() as peak:
            body(patches)
    assert peak.counts["_coupling_product"] == 12 * (2 if precision == "fp32" else 1)
    return peak.bytes / 2**20


@pytest.mark.parametrize(
    ("task", "precision", "most"), [(1, "bf16", 1200), (0, "bf16", 1200), (1, "fp32", PUBLISHED / 2)]
)
def test_memory_of_a_step(task: int, precision: str, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = peak_mib(task, precision, monkeypatch)
    assert 600 < MEASURED_OVER_COUNTED * counted <= most
