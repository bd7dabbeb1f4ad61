"""Task ids that do not exist are an error, and never scored by the base alone."""

from collections.abc import Callable

import pytest
import torch
from small_trainer import DIM, make_trainer, task_features, train

from moleflow_fast.backend import use_backend
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

CALLS: dict[str, Callable[[MoLEContinualTrainer], object]] = {
    "inference": lambda trainer: trainer.inference(torch.zeros(2, DIM, 4, 5), task_id=9),
    "anomaly_maps": lambda trainer: trainer.moleflow.anomaly_maps(task_features(0, 2), torch.tensor([0, 9])),
    "forward_as": lambda trainer: trainer.nf_model.forward_as(9, task_features(0, 2)),
    "set_active_task": lambda trainer: trainer.nf_model.set_active_task(9),
}


@pytest.mark.parametrize("backend", ["cpp", "eager"])
@pytest.mark.parametrize("call", CALLS)
def test_named(call: str, backend: str) -> None:
    with use_backend(backend):
        trainer = make_trainer()
        train(trainer, 0, epochs=1)
        with pytest.raises(KeyError, match="task 9 is unknown; known tasks: \\[0\\]"):
            CALLS[call](trainer)
