"""The inference executor on Triton kernels: on a GPU as CUDA graphs, else in the interpreter."""

import pytest
import torch
from small_trainer import DIM, make_trainer, task_features, train

from moleflow_fast.backend import use_backend
from moleflow_fast.config import AblationConfig
from moleflow_fast.data.normalization import Normalization
from moleflow_fast.engine import captured
from moleflow_fast.engine.captured import CapturedRuns
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def trained_on_two() -> MoLEContinualTrainer:
    trainer = make_trainer(AblationConfig(dia_n_blocks=1), device=DEVICE, coupling_layers=1)
    for task in range(2):
        train(trainer, task, epochs=1, images=40, device=DEVICE)
    return trainer


def mixed_images() -> torch.Tensor:
    features = torch.cat([task_features(0, 3), task_features(1, 3)])[[3, 0, 4, 1, 5, 2]]
    return features.permute(0, 3, 1, 2).to(DEVICE)


def test_mixed_batches_score_as_images_alone() -> None:
    trainer, images = trained_on_two(), mixed_images()
    with use_backend("eager"):
        expected = trainer.inference(images)
    with use_backend("triton"):
        assert trainer.executor.mixes(images)
        actual = trainer.inference(images)
        one_task = trainer.inference(images, task_id=1)
    assert actual[2].tolist() == expected[2].tolist() == [1, 0, 1, 0, 1, 0]
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(one_task[0][0], actual[0][0], rtol=1e-5, atol=1e-3)


def byte_images(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 4, 5), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_bytes_score_as_what_they_are_normalised_to(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, images = trained_on_two(), byte_images()
    widen = torch.randn(3, DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    monkeypatch.setattr(trainer.executor, "extractor", lambda seen: seen.permute(0, 2, 3, 1) @ widen)
    normalised = Normalization()(images)
    with use_backend(backend):
        for given in ({}, {"task_id": 1}):
            results = zip(trainer.inference(images, **given), trainer.inference(normalised, **given), strict=True)
            assert all(torch.equal(actual, expected) for actual, expected in results)


def test_a_device_normalises_as_a_cpu_does() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(1, 3, 1, 1)
    assert torch.equal(Normalization().to(DEVICE)(images.to(DEVICE)).cpu(), Normalization()(images))


def test_task_ids_need_not_start_at_zero() -> None:
    trainer = trained_on_two()
    places = trainer.executor._places_of((3, 7), torch.device(DEVICE))
    assert places[torch.tensor([7, 3, 7], device=DEVICE)].tolist() == [1, 0, 1]


def test_batches_are_filled_up_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "LARGEST", 4)
    sizes: list[int] = []

    def double(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes.append(len(images))
        return images * 2, images.sum(1)

    run = CapturedRuns(double, lambda _: [])
    for count in (1, 3, 4, 7, 2):
        images = torch.randn(count, 5, device=DEVICE)
        doubled, sums = run(images)
        assert torch.equal(doubled, images * 2) and torch.equal(sums, images.sum(1))
    assert set(sizes) == {1, 2, 4}


def test_dtypes_do_not_share_a_batch() -> None:
    run = CapturedRuns(lambda images: (images / 2,), lambda _: [])
    images = byte_images().to(DEVICE)
    for batch in (images, images.float() + 0.25, images):
        assert torch.equal(run(batch)[0], batch / 2)
    assert len(run._batches) == 2


def test_results_outlive_the_next_run() -> None:
    run = CapturedRuns(lambda images: (images + 1,), lambda _: [])
    (first,) = run(torch.zeros(2, 3, device=DEVICE))
    run(torch.ones(2, 3, device=DEVICE))
    assert torch.equal(first, torch.ones(2, 3, device=DEVICE))


def test_a_changed_state_is_captured_anew() -> None:
    value, state = torch.zeros(1, device=DEVICE), [object()]
    run = CapturedRuns(lambda images: (images + value,), lambda _: state)
    run(torch.zeros(2, 1, device=DEVICE))
    batches = dict(run._batches)
    run(torch.zeros(2, 1, device=DEVICE))
    assert run._batches == batches
    state[0] = object()
    run(torch.zeros(2, 1, device=DEVICE))
    assert run._batches and run._batches != batches


def test_whatever_changes_is_in_the_state() -> None:
    trainer, images = trained_on_two(), mixed_images()
    with use_backend("triton"):
        before = trainer.executor._state(images)
        assert all(a is b for a, b in zip(before, trainer.executor._state(images), strict=True))
        with torch.no_grad():
            trainer.nf_model.dia_adapters["1"].coupling_blocks[0].s_net.layers[0].weight.mul_(2)
        changed = trainer.executor._state(images)
        assert not all(a is b for a, b in zip(before, changed, strict=True))
        trainer.router.prototypes[0].update(task_features(0, 9).mean((1, 2)).to(DEVICE))
        moved = trainer.executor._state(images)
        assert not all(a is b for a, b in zip(changed, moved, strict=True))


def test_a_new_task_changes_the_state() -> None:
    trainer, images = trained_on_two(), mixed_images()
    with use_backend("triton"):
        before = trainer.executor._state(images)
        again = trainer.executor._state(images)
        assert all(a is b for a, b in zip(before, again, strict=True))
        with use_backend("cpp" if DEVICE == "cpu" else "eager"):
            train(trainer, 2, epochs=1, device=DEVICE)
        after = trainer.executor._state(images)
        assert len(after) > len(before)
        assert trainer.inference(images)[2].tolist() == [1, 0, 1, 0, 1, 0]
