"""Going on inside a task: the same bits as without an interruption, and a state that does not fit is left alone."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_trainer import TensorSource, make_trainer, task_features, train

from moleflow_fast.backend import use_backend
from moleflow_fast.config import AblationConfig
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.partial_state import PartialState, remove

LOGGER = logging.getLogger("partial")
BELONGS = {"lr": 0.01, "classes": ["class1"]}
CASES = {
    "cpp": ("cpp", AblationConfig(), {}),
    "eager": ("eager", AblationConfig(), {}),
    "slow stage": ("cpp", AblationConfig(), {"enable_slow_stage": True}),
    "slow stage eager": ("eager", AblationConfig(), {"enable_slow_stage": True}),
    "sequential": ("cpp", AblationConfig(no_freeze_base=True), {}),
    "front": ("cpp", AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False, front_directions=5), {}),
    "separated": ("cpp", AblationConfig(use_task_separated=True), {}),
    "regular linear": ("cpp", AblationConfig(use_regular_linear=True, use_scale_context=False), {}),
    "spectral norm": ("eager", AblationConfig(use_spectral_norm=True, use_scale_context=False), {}),
}
EPOCHS = 5  # with a slow stage: four fast ones and a slow one


class Stop(Exception):
    """A kill."""


def keeper(directory: Path, task: int, seconds: float = 0.0) -> PartialState:
    return PartialState(directory, task, BELONGS, LOGGER, seconds)


def learn(trainer: MoLEContinualTrainer, task: int, directory: Path, kill_after: int | None = None) -> list:
    """Train a task; killed after so many epochs, its state written."""

    def listen(record: object) -> None:
        if kill_after is not None and getattr(record, "batch", None) == 1 and record.epoch == kill_after:
            raise Stop

    trainer.listener = listen
    loader = FeatureLoader(TensorSource(task_features(task)), 4, seed=trainer.seed + task)
    return trainer.train_task(task, [f"class{task}"], loader, EPOCHS, lr=1e-2, keeper=keeper(directory, task))


def without_seconds(records: list) -> list:
    return [replace(record, seconds=0.0) for record in records]


def assert_equal(ours: MoLEContinualTrainer, theirs: MoLEContinualTrainer) -> None:
    expected = theirs.nf_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ours.nf_model.state_dict().items())
    for name in () if ours.config.has_front else ("mean", "std"):
        assert torch.equal(*(getattr(t.nf_model.feature_statistics, name) for t in (ours, theirs)))


@pytest.mark.parametrize("case", CASES)
def test_a_task_goes_on_to_the_same_bits(case: str, tmp_path: Path) -> None:
    backend, config, args = CASES[case]
    with use_backend(backend):
        whole = make_trainer(config, **args)
        expected = [learn(whole, task, tmp_path / "whole") for task in range(2)]
        for first_kill, then in ((2, 3), (4, None), (1, 4)):
            directory = tmp_path / str(first_kill)
            resumed = make_trainer(config, **args)
            for task in range(2):
                before = {n: v.clone() for n, v in resumed.nf_model.state_dict().items()}
                statistics = resumed.nf_model.feature_statistics.running()
                for kill in (first_kill, then):
                    if kill is not None:
                        with pytest.raises(Stop):
                            learn(resumed, task, directory, kill)
                    resumed = fresh(config, args, before, statistics, task)  # another process
                records = learn(resumed, task, directory)
                assert without_seconds(records) == without_seconds(expected[task])
        assert_equal(resumed, whole)


def fresh(config: AblationConfig, args: dict, before: dict, statistics: dict, task: int) -> MoLEContinualTrainer:
    """A trainer with the tasks before `task` learned."""
    torch.manual_seed(3)
    trainer = make_trainer(config, **args)
    if task > 0:
        trainer.nf_model.load_state_dict(before)
        if not config.has_front:
            trainer.nf_model.feature_statistics.load_running(statistics)
        trainer.nf_model.finalize_reference_stats()
        trainer.nf_model.freeze()
    return trainer


@pytest.mark.slow
def test_steps_on_the_device_go_on_too(tmp_path: Path) -> None:
    """In Triton's interpreter; on a GPU as CUDA graphs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    states = []
    for interrupted in (False, True):
        for kill in (True, False) if interrupted else (False,):
            trainer = make_trainer(AblationConfig(dia_n_blocks=1), device=device, coupling_layers=1)
            trainer.listener = _killer() if kill else lambda record: None
            loader = FeatureLoader(TensorSource(task_features(0, 4).to(device)), 4, seed=0)
            with use_backend("triton"):
                try:
                    trainer.train_task(0, ["a"], loader, 2, lr=1e-2, keeper=keeper(tmp_path / str(interrupted), 0))
                except Stop:
                    assert kill
        states.append(trainer.nf_model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _killer():
    def listen(record: object) -> None:
        if getattr(record, "batch", None) == 1 and record.epoch == 1:
            raise Stop

    return listen


def test_every_so_many_seconds(tmp_path: Path) -> None:
    rare = keeper(tmp_path, 0, seconds=3600)
    rare.epoch_ended(lambda: pytest.fail("too early"))
    assert not rare.file.exists()


def stored(tmp_path: Path) -> Path:
    with pytest.raises(Stop):
        learn(make_trainer(), 0, tmp_path, kill_after=2)
    return keeper(tmp_path, 0).file


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def another_schema(file: Path) -> None:
    rewrite(file, lambda description: description.update(schema=7))


def other_epochs(file: Path) -> None:
    rewrite(file, lambda description: description["records"].pop(0))


def unlike_the_model(file: Path) -> None:
    rewrite(file, lambda description: None, lambda tensors: tensors.popitem())


def foreign_moments(file: Path) -> None:
    rewrite(file, lambda description: None, lambda tensors: tensors.update({"optimizer.999.exp_avg": torch.zeros(1)}))


def rewrite(file: Path, change, change_tensors=lambda tensors: None) -> None:
    """With a checksum that is right."""
    from moleflow_fast.trainer import partial_state

    with safe_open(file, "pt") as content:
        description = json.loads(content.metadata()["state"])
    tensors = load_file(file)
    change(description)
    change_tensors(tensors)
    text = json.dumps(description)
    save_file(tensors, file, {"state": text, "sha256": partial_state._checksum(text, tensors)})


DAMAGES = (truncated, flipped, empty, another_schema, other_epochs, unlike_the_model, foreign_moments)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_cannot_be_used_costs_no_more_than_the_task(
    damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(stored(tmp_path))
    trainer, whole = make_trainer(), make_trainer()
    assert len(learn(trainer, 0, tmp_path)) == EPOCHS
    assert "task_0.partial.safetensors is not used" in caplog.text and "task 0 starts over" in caplog.text
    train(whole, 0, EPOCHS)
    assert_equal(trainer, whole)


def test_a_state_of_another_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored(tmp_path)
    assert PartialState(tmp_path, 0, {**BELONGS, "lr": 1.0}, LOGGER).stored() is None
    assert "it belongs to another training: lr differ" in caplog.text


def test_removed(tmp_path: Path) -> None:
    file = stored(tmp_path)
    remove(tmp_path, range(3))
    assert not file.exists()
