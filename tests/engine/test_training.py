"""Steps on the device against the trainer's single steps: on a GPU as CUDA graphs, else in Triton's interpreter."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_trainer import TensorSource, make_trainer, task_features, train
from torch.utils._python_dispatch import TorchDispatchMode

from moleflow_fast.backend import use_backend, use_precision
from moleflow_fast.config import AblationConfig
from moleflow_fast.engine.training import DeviceSteps
from moleflow_fast.trainer import continual_trainer
from moleflow_fast.trainer.continual_trainer import BatchRecord, MoLEContinualTrainer, TrainingDivergedError
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.optimizer import AdamP

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = AblationConfig(dia_n_blocks=1)  # the interpreter takes a second a step


def needs_gpu(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.gpu(pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")(test))


@pytest.fixture(autouse=True)
def whole_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one part, which halves the interpreter's time, but where equality with single steps is asked."""
    if "in_parts" not in request.fixturenames:
        monkeypatch.setattr(continual_trainer, "parts_of_a_step", lambda: 1)


@pytest.fixture
def in_parts() -> None:
    """As fp32 goes through."""


def small_trainer(config: AblationConfig = SMALL) -> MoLEContinualTrainer:
    return make_trainer(config, device=DEVICE, coupling_layers=1)


def trained(backend: str, config: AblationConfig = SMALL) -> tuple[MoLEContinualTrainer, list]:
    """Two tasks of two steps each."""
    trainer = small_trainer(config)
    records = []
    with use_backend(backend):
        for task in range(2):
            records += train(trainer, task, epochs=1, device=DEVICE)
    return trainer, records


@pytest.mark.parametrize("tail", [pytest.param(False, marks=pytest.mark.full), True])
def test_equal_to_single_steps(tail: bool, in_parts: None) -> None:
    """The plain loss, which `test_density` holds to its definition, with --full."""
    config = replace(SMALL, use_tail_aware_loss=tail)
    (single, expected), (graph, records) = trained("eager", config=config), trained("triton", config=config)
    for a, b in zip(records, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4) and a.skipped_batches == b.skipped_batches == 0
    # AdamP divides by a root of squares: a gradient that is all rounding moves a parameter by up to its rate.
    state = single.nf_model.state_dict()
    for name, value in graph.nf_model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-3, msg=name)
    assert graph.nf_model.feature_statistics.count == single.nf_model.feature_statistics.count


def test_parameters_that_the_loss_does_not_reach_stay() -> None:
    """A mixer without its convolution: AdamP would decay it if it were given a gradient of zeros."""
    trainer = small_trainer(replace(SMALL, spatial_context_mode="local_stats"))
    assert trainer.nf_model.spatial_mixer is not None
    before = trainer.nf_model.spatial_mixer.depthwise_conv.weight.clone()
    with use_backend("triton"):
        train(trainer, 0, epochs=1, images=4, device=DEVICE)
    assert torch.equal(trainer.nf_model.spatial_mixer.depthwise_conv.weight, before)


def test_a_batch_that_is_not_finite_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    features = task_features(0, images=8).to(DEVICE)
    features[FeatureLoader(TensorSource(features), 4, seed=0)._order(0)[0][0]] = torch.nan  # in the first batch
    trainer = small_trainer()
    with use_backend("triton"):
        records = trainer.train_task(0, ["a"], FeatureLoader(TensorSource(features), 4, seed=0), 1, lr=1e-2)
    assert records[0].skipped_batches == 1
    assert all(p.isfinite().all() for p in trainer.nf_model.parameters())


def test_an_epoch_without_a_usable_batch_is_an_error() -> None:
    features = torch.full_like(task_features(0, images=4), torch.nan).to(DEVICE)
    trainer = small_trainer()
    with use_backend("triton"), pytest.raises(TrainingDivergedError, match="none of 1 batches"):
        trainer.train_task(0, ["a"], FeatureLoader(TensorSource(features), 4, seed=0), 1, lr=1e-2)


def test_step_counts_reach_the_optimizer() -> None:
    trainer = small_trainer()
    stages: list[Any] = []
    plain = trainer._stages
    trainer._stages = lambda *a: stages.extend(plain(*a)) or stages  # type: ignore[method-assign, func-returns-value]
    with use_backend("triton"):
        train(trainer, 0, epochs=2, images=4, device=DEVICE)
    counts = {state["step"] for state in stages[0].optimizer.state.values()}
    assert counts == {2}  # two epochs of one batch


def test_progress_is_reported_for_every_batch() -> None:
    trainer = small_trainer()
    seen: list[BatchRecord] = []
    trainer.listener = lambda record: seen.append(record) if isinstance(record, BatchRecord) else None
    with use_backend("triton"):
        train(trainer, 0, epochs=1, device=DEVICE)
    assert [record.batch for record in seen] == [1, 2]


class _NoHostReads(TorchDispatchMode):
    READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_to_copy", "item")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        if name in self.READS and (name != "_to_copy" or (kwargs or {}).get("device") is not None):
            raise AssertionError(f"{name} reads the device from the host")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_host_reads() -> Iterator[None]:
    if DEVICE == "cpu":
        with _NoHostReads():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from moleflow_fast.engine import training

    plain, calls = training._Step.__call__, []

    def watched(self: training._Step, patches: torch.Tensor) -> None:
        calls.append(patches.shape)
        with no_host_reads():
            plain(self, patches)

    monkeypatch.setattr(training._Step, "__call__", watched)
    trainer = small_trainer()
    with use_backend("triton"):
        train(trainer, 0, epochs=1, device=DEVICE)  # of two steps
        train(trainer, 1, epochs=1, images=4, device=DEVICE)
    assert len(calls) == 3


@needs_gpu
def test_from_its_first_step_to_its_end_an_epoch_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathering, steps and progress; at the first batch its order goes to the device, and the step is captured."""
    plain, watched = FeatureLoader.epoch, []

    def epoch(self: FeatureLoader, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches = plain(self, number)
        yield next(batches)
        with no_host_reads():
            for batch in batches:
                watched.append(number)
                yield batch

    monkeypatch.setattr(FeatureLoader, "epoch", epoch)
    trained("triton")
    assert len(watched) == 2


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_graphs_give_the_same_bits_twice(precision: str) -> None:
    with use_precision(precision):
        (first, records), (second, again) = trained("triton"), trained("triton")
    assert [r.loss for r in records] == [r.loss for r in again]
    state = second.nf_model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.nf_model.state_dict().items())


def linear_steps(seed: int = 0) -> tuple[torch.nn.Linear, DeviceSteps, AdamP]:
    torch.manual_seed(seed)
    layer = torch.nn.Linear(5, 3).to(DEVICE)
    optimizer = AdamP(layer.parameters(), lr=1e-2)
    return layer, DeviceSteps(lambda x: layer(x).square().mean(), optimizer, 0.5, 1e8), optimizer


def test_batches_of_several_sizes_share_one_optimizer() -> None:
    layer, steps, optimizer = linear_steps()
    twin, _, plain = linear_steps()
    batches = [torch.randn(n, 5, device=DEVICE) for n in (4, 2, 4, 1)]
    for batch in batches:
        steps(batch)
        plain.zero_grad(set_to_none=True)
        twin(batch).square().mean().backward()
        plain.step(max_norm=0.5)
    total, counted, skipped = steps.finish()
    assert (counted, skipped) == (4, 0) and len(steps._steps) == 3
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert all(state["step"] == 4 for state in optimizer.state.values())
    assert steps.finish() == (0.0, 0, 0)


def test_a_new_rate_holds_from_the_next_step() -> None:
    layer, steps, _ = linear_steps()
    steps(torch.randn(4, 5, device=DEVICE))
    before = layer.weight.clone()
    steps.set_rate(0.0)
    steps(torch.randn(4, 5, device=DEVICE))
    assert torch.equal(layer.weight, before)
