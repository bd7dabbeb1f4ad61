"""What training promises: determinism, zero forgetting to the bit, skipped batches, nothing silent."""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from small_trainer import DIM, TensorSource, make_trainer, task_features, train

from moleflow_fast.config import AblationConfig
from moleflow_fast.config.switches import ADAPTER_MODES, SPATIAL_CONTEXT_MODES
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer, TrainingDivergedError
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.schedule import cosine_rate, warmup_cosine_rate

FULL = AblationConfig()
PROMISING = {
    "default": FULL,
    "no_dia": replace(FULL, use_dia=False),
    "no_lora": replace(FULL, use_lora=False),
    "no_adapter": replace(FULL, use_task_adapter=False),
    "no_scale_context": replace(FULL, use_scale_context=False),
    "no_spatial_context": replace(FULL, use_spatial_context=False),
    "no_pos": replace(FULL, use_pos_embedding=False),
    "tail": replace(FULL, use_tail_aware_loss=True),
    "regular_linear": replace(FULL, use_regular_linear=True, use_scale_context=False),
    "task_separated": replace(FULL, use_task_separated=True),
    "spectral_norm": replace(FULL, use_spectral_norm=True, use_scale_context=False),
    **{m: replace(FULL, adapter_mode=m, use_whitening_adapter=m == "whitening") for m in ADAPTER_MODES},
    **{f"mixer_{m}": replace(FULL, spatial_context_mode=m) for m in SPATIAL_CONTEXT_MODES},
}


def maps_of(trainer, task: int) -> torch.Tensor:
    features = task_features(task, images=5)
    return trainer.moleflow.anomaly_maps(features, torch.full((5,), task))


@pytest.mark.parametrize("name", PROMISING)
def test_zero_forgetting_to_the_bit(name: str) -> None:
    trainer = make_trainer(PROMISING[name])
    assert trainer.promises_zero_forgetting
    before = {}
    for task in range(3):
        train(trainer, task)
        before[task] = maps_of(trainer, task)
    for task in range(3):
        assert torch.equal(maps_of(trainer, task), before[task])


@pytest.mark.parametrize("name", PROMISING)
def test_each_task_learns_and_owns_what_it_learned(name: str) -> None:
    trainer = make_trainer(PROMISING[name])
    for task in range(2):
        records = train(trainer, task, epochs=6)
        assert records[-1].loss < records[0].loss
    assert not torch.equal(
        trainer.moleflow.anomaly_maps(task_features(1), torch.zeros(9, dtype=torch.long)),
        trainer.moleflow.anomaly_maps(task_features(1), torch.ones(9, dtype=torch.long)),
    )


def test_a_trainer_goes_on_with_what_another_has_taught() -> None:
    first = make_trainer(FULL)
    train(first, 0)
    before = maps_of(first, 0)
    second = MoLEContinualTrainer.over(first.moleflow, first.args)
    train(second, 1)
    assert second.task_classes == {0: ["class0"], 1: ["class1"]} and list(second.router.prototypes) == [0, 1]
    assert torch.equal(maps_of(second, 0), before)


def test_zero_coupling_layers_train_on_the_task_flow_alone() -> None:
    trainer = make_trainer(FULL, coupling_layers=0)
    records = train(trainer, 0, epochs=6)
    train(trainer, 1)
    assert records[-1].loss < records[0].loss


@pytest.mark.parametrize("what", ["no_freeze_base", "slow_stage"])
def test_ablations_that_forget_do_and_say_so(what: str) -> None:
    config = replace(FULL, no_freeze_base=what == "no_freeze_base")
    trainer = make_trainer(config, enable_slow_stage=what == "slow_stage")
    assert not trainer.promises_zero_forgetting
    train(trainer, 0)
    before = maps_of(trainer, 0)
    records = train(trainer, 1, epochs=10)
    assert not torch.equal(maps_of(trainer, 0), before)
    assert [r.stage for r in records].count("slow") == (2 if what == "slow_stage" else 0)
    assert [r.epoch for r in records] == list(range(10))


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    def final_state(seed: int) -> dict[str, torch.Tensor]:
        trainer = make_trainer(seed=seed)
        for task in range(2):
            train(trainer, task)
        return trainer.nf_model.state_dict()

    first, again, other = final_state(0), final_state(0), final_state(1)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_an_expert_does_not_depend_on_random_numbers_drawn_before() -> None:
    def expert(disturb: bool) -> dict[str, torch.Tensor]:
        trainer = make_trainer()
        train(trainer, 0)
        if disturb:
            torch.rand(1000)
        train(trainer, 1)
        return trainer.nf_model.state_dict()

    plain, disturbed = expert(False), expert(True)
    assert all(torch.equal(plain[n], disturbed[n]) for n in plain)


def test_a_bad_batch_is_skipped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    features = task_features(0, images=8)
    features[3, 1, 1, 0] = torch.nan
    trainer = make_trainer()
    loader = FeatureLoader(TensorSource(features), 4, seed=0)
    with caplog.at_level(logging.WARNING):
        records = trainer.train_task(0, ["class0"], loader, 2, lr=1e-3)
    assert [r.skipped_batches for r in records] == [1, 1]
    assert "skipped 1 of 2 batches" in caplog.text
    assert all(bool(p.isfinite().all()) for p in trainer.nf_model.parameters())


def test_an_epoch_without_a_usable_batch_is_an_error() -> None:
    trainer = make_trainer()
    loader = FeatureLoader(TensorSource(torch.full((8, 4, 5, DIM), torch.inf)), 4, seed=0)
    with pytest.raises(TrainingDivergedError, match="lower --lr"):
        trainer.train_task(0, ["class0"], loader, 2, lr=1e-3)


def test_fewer_images_than_a_batch_train_with_a_message(caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer()
    before = {n: p.clone() for n, p in trainer.nf_model.named_parameters()}
    with caplog.at_level(logging.WARNING):
        records = train(trainer, 0, images=3, batch_size=16)
    assert "3 training images are fewer than a batch of 16" in caplog.text
    assert [r.images for r in records] == [3, 3, 3]
    assert any(not torch.equal(p, before[n]) for n, p in trainer.nf_model.named_parameters() if n in before)


def test_the_last_partial_batch_is_dropped_and_every_epoch_is_another_order() -> None:
    loader = FeatureLoader(TensorSource(task_features(0, images=10)), 4, seed=0)
    orders = [torch.cat(loader._order(e)) for e in range(2)]
    assert len(loader) == 2 and all(len(o) == 8 for o in orders)
    assert not torch.equal(*orders)


def test_published_loaders_train_too() -> None:
    images = task_features(0, images=8).permute(0, 3, 1, 2)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=4)
    trainer = make_trainer()
    records = trainer.train_task(0, ["class0"], loader, 4, lr=1e-2)
    assert records[-1].loss < records[0].loss
    maps, scores, ids = trainer.inference(images)
    assert maps.shape == (8, 4, 5) and scores.shape == (8,) and ids.tolist() == [0] * 8


def test_inference_scores_each_image_under_its_own_task() -> None:
    trainer = make_trainer()
    for task in range(2):
        train(trainer, task, images=40)
    mixed = torch.cat([task_features(0, 3), task_features(1, 3)])[[3, 0, 4, 1, 5, 2]]
    maps, _, ids = trainer.inference(mixed.permute(0, 3, 1, 2))
    assert ids.tolist() == [1, 0, 1, 0, 1, 0]
    for i in range(6):
        alone, _, _ = trainer.inference(mixed[i : i + 1].permute(0, 3, 1, 2), task_id=int(ids[i]))
        torch.testing.assert_close(maps[i], alone[0], rtol=1e-5, atol=1e-4)


def test_two_threads_score_as_one_after_the_other() -> None:
    trainer = make_trainer()
    for task in range(2):
        train(trainer, task)
    images = [task_features(task, 6).permute(0, 3, 1, 2) for task in range(2)]
    alone = [trainer.inference(images[task], task_id=task) for task in range(2)]

    def score(task: int) -> bool:
        again = (trainer.inference(images[task], task_id=task) for _ in range(20))
        return all(torch.equal(a, b) for result in again for a, b in zip(result, alone[task], strict=True))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(score, range(2)))


def test_a_batch_in_parts_has_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def state_after_a_step(values_at_once: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("moleflow_fast.engine.plan.CHUNK_VALUES", values_at_once)
        trainer = make_trainer(replace(FULL, use_tail_aware_loss=True))
        train(trainer, 0, epochs=1)
        return trainer.nf_model.state_dict()

    whole, parts = state_after_a_step(10**9), state_after_a_step(1)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)


def test_schedules() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7, eta_min=0.1 / 100)
    for epoch in range(7):
        assert math.isclose(cosine_rate(epoch, 7, 0.1), scheduler.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        scheduler.step()
    assert [warmup_cosine_rate(e, 7, 0.1) for e in range(4)] == [0.05, 0.1, 0.1, cosine_rate(1, 7, 0.1)]


def test_weights_are_merged_once_after_training() -> None:
    trainer = make_trainer()
    for task in range(2):
        train(trainer, task, epochs=1)
    assert not any(p.requires_grad for p in trainer.nf_model.parameters())
    model = trainer.nf_model
    first = [model.runner.packed(model.expert(t).flow) for t in range(2)]
    trainer.inference(task_features(1, 3).permute(0, 3, 1, 2))
    assert all(model.runner.packed(model.expert(t).flow) is packed for t, packed in enumerate(first))
