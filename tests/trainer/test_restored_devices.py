"""What a state, a checkpoint or a prototype restores arrives where its owner is: shown with owners on "meta"."""

from pathlib import Path

import pytest
import torch
from small_trainer import TensorSource, make_trainer, task_features, train

from moleflow_fast.backend import use_backend
from moleflow_fast.models.routing import TaskPrototype
from moleflow_fast.models.statistics import FeatureStatistics
from moleflow_fast.trainer import checkpoint
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.task_state import TaskState

META = torch.device("meta")


class Keeper:
    """Keeps the state of a training in memory."""

    def __init__(self, state: TaskState | None = None) -> None:
        self.state = state

    def stored(self) -> TaskState | None:
        return self.state

    def refuse(self, reason: str) -> None:
        pytest.fail(reason)

    def epoch_ended(self, state) -> None:
        self.state = self.state or state()  # of the first epoch


def learned_on_the_cpu(tasks: int) -> tuple[MoLEContinualTrainer, TaskState]:
    """A trainer with so many tasks learned, and the state after the first epoch of the last one."""
    trainer, keeper = make_trainer(), Keeper()
    for task in range(tasks):
        keeper = Keeper()
        loader = FeatureLoader(TensorSource(task_features(task)), 4, seed=0)
        trainer.train_task(task, ["a"], loader, 2, lr=1e-2, keeper=keeper)
    assert keeper.state is not None
    return trainer, keeper.state


@pytest.mark.parametrize("task", [0, 1])
def test_a_task_gone_on_with(task: int) -> None:
    with use_backend("eager"):
        _, state = learned_on_the_cpu(task + 1)
    trainer = make_trainer(device="meta")
    for begun in range(task + 1):
        trainer._begin_task(begun)
    stages = trainer._stages(task, 2, 1e-2)
    assert len(trainer._go_on(task, stages, Keeper(state))) == 1

    owner = trainer.nf_model
    statistics = owner.feature_statistics.running()
    assert (task == 0) == (statistics != {})
    moments = [value for own in stages[0].optimizer.state.values() for value in own.values()]
    tensors = [value for value in moments if isinstance(value, torch.Tensor)]
    assert len(tensors) == 2 * len(stages[0].params)
    steps = [value for value in moments if not isinstance(value, torch.Tensor)]
    assert steps == [2] * len(stages[0].params)  # numbers of the host, whatever the device
    restored = [*owner.state_dict().values(), *tensors, *(v for n, v in statistics.items() if n != "count")]
    assert {tensor.device for tensor in restored} == {META}


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"embed_dim": 16}
    source = make_trainer()
    for task in range(2):
        train(source, task)
        checkpoint.save_task(tmp_path, source.moleflow, task, options, source.promises_zero_forgetting)
    inverted: list[torch.device] = []

    def finalize(self: TaskPrototype) -> None:  # an inverse is looked at, and "meta" has nothing to see
        assert self.covariance is not None
        inverted.append(self.covariance.device)
        self.precision = self.covariance.clone()

    monkeypatch.setattr(TaskPrototype, "finalize", finalize)
    trainer = make_trainer(device="meta")
    assert checkpoint.load_tasks(tmp_path, trainer.moleflow, options) == [0, 1]
    statistics = trainer.nf_model.feature_statistics
    prototypes = trainer.router.prototypes.values()
    restored = [
        *trainer.nf_model.state_dict().values(),
        *(t for p in prototypes for t in (p.mean, p.covariance, p.precision)),
        *(statistics.mean, statistics.std),
    ]
    assert {tensor.device for tensor in restored if tensor is not None} == {META} == set(inverted)


def test_statistics_move_with_the_model() -> None:
    trainer = make_trainer()
    statistics = trainer.nf_model.feature_statistics
    statistics.update(task_features(0))
    before = {name: value.clone() for name, value in statistics.running().items()}
    trainer.nf_model.double()
    assert all(torch.equal(value, before[name]) for name, value in statistics.running().items())
    trainer.nf_model.to("meta")
    statistics.update(task_features(1).to("meta"))  # of two devices it would fail
    assert statistics.mean is not None and statistics.mean.device == META


def test_statistics_of_their_own_stay_where_they_are() -> None:
    statistics = FeatureStatistics()
    statistics.update(task_features(0))
    again = FeatureStatistics()
    again.load_running(statistics.running())
    again.update(task_features(1))
    assert again.count == 2 * task_features(0).shape[:-1].numel()
