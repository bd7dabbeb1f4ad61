"""How many kernels a training step launches on a GPU, counted without one; see `launches`."""

from __future__ import annotations

import pytest
import torch
from launches import Launches, no_interpreting
from training_steps import TrainingStep

from moleflow_fast.backend import use_backend, use_precision
from moleflow_fast.config import AblationConfig
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCKS, COUPLINGS = 8, 4
ON_A_CPU = "copy_"  # casts that torch's products on a GPU do by themselves, and one copy of the batch


def launched(task: int, blocks: int = BLOCKS) -> Launches:
    """Those of a task's second step in bf16; no step reads from the device what its kernels write."""
    torch.manual_seed(0)
    model = MoLESpatialAwareNF(8, blocks, lora_rank=2, ablation_config=AblationConfig(dia_n_blocks=COUPLINGS))
    patches = torch.randn(2, 2, 2, 8, device=DEVICE)
    with use_backend("triton"), use_precision("bf16"), no_interpreting():
        step = TrainingStep(model.to(DEVICE), task, DEVICE)
        step.run(patches)
        body = step.body(patches)
        with Launches() as counted:
            body(patches)
    return counted


@pytest.mark.parametrize(("task", "blocks", "most"), [(1, BLOCKS, 175), (0, BLOCKS, 275), (1, 0, 95)])
def test_launches_of_a_step(task: int, blocks: int, most: int) -> None:
    """Of a later task 1,016 before weights were merged and gradients written in one piece, of the first 1,230."""
    counted = launched(task, blocks)
    assert counted.total - counted.counts[f"torch.{ON_A_CPU}"] <= most, counted.counts.most_common()
    assert counted.counts["_coupling_product"] == blocks + COUPLINGS  # they are counted at all
    assert counted.counts["_merge"] == counted.counts["_add_up"] == 1
