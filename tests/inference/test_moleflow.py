"""Scoring on Triton kernels: on a GPU as CUDA graphs, else in the interpreter."""

from functools import cache

import pytest
import torch
from flow_models import fit_fronts
from launches import Launches
from small_trainer import DIM, make_trainer, task_features, train

from moleflow_fast.backend import use_backend
from moleflow_fast.config import AblationConfig
from moleflow_fast.data.normalization import Normalization, normalized
from moleflow_fast.engine import captured
from moleflow_fast.engine.captured import CapturedRuns
from moleflow_fast.extractors import create_feature_extractor
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.models.routing import TaskPrototype
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def trained_on_two(config: AblationConfig | None = None) -> MoLEContinualTrainer:
    trainer = make_trainer(config or AblationConfig(dia_n_blocks=1), device=DEVICE, coupling_layers=1)
    for task in range(2):
        train(trainer, task, epochs=1, images=40, device=DEVICE)
    return trainer


def mixed_images() -> torch.Tensor:
    features = torch.cat([task_features(0, 3), task_features(1, 3)])[[3, 0, 4, 1, 5, 2]]
    return features.permute(0, 3, 1, 2).to(DEVICE)


@pytest.mark.parametrize("adapter_mode", ["whitening", "gaussian"])
def test_mixed_batches_score_as_images_alone(adapter_mode: str) -> None:
    config = AblationConfig(
        adapter_mode=adapter_mode, use_whitening_adapter=adapter_mode == "whitening", dia_n_blocks=1
    )
    trainer, images = trained_on_two(config), mixed_images()
    with use_backend("eager"):
        expected = trainer.inference(images)
    with use_backend("triton"):
        assert trainer.moleflow.mixes(images)
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
    monkeypatch.setattr(trainer.moleflow, "extractor", lambda seen: seen.permute(0, 2, 3, 1) @ widen)
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
    places = trainer.moleflow._places_of((3, 7), torch.device(DEVICE))
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


FRONTS = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False, front_directions=6, dia_n_blocks=1)
IMAGE_CHANNELS = 64  # of the features below: narrow, so that the interpreter takes seconds


def moleflow_of_a_network(config: AblationConfig | None = None, blocks: int = 2) -> MoLEFlow:
    """A ResNet-18, two tasks that were never trained, and a router between them."""
    torch.manual_seed(0)
    config = config or AblationConfig()
    flow = MoLESpatialAwareNF(IMAGE_CHANNELS, blocks, lora_rank=3, ablation_config=config, device=DEVICE)
    prototypes = []
    for task in range(2):
        flow.add_task(task)
        prototypes.append(TaskPrototype(task, device=DEVICE))
        prototypes[-1].update(torch.randn(80, IMAGE_CHANNELS, device=DEVICE) + task)
    with torch.no_grad():
        for adapter in () if config.has_front else flow.input_adapters.values():
            adapter.gamma_raw.normal_()
            adapter.beta_raw.normal_()
    fit_fronts(flow, (8, 8))
    flow.freeze()
    backbone = create_feature_extractor("resnet18", (3, 64, 64), IMAGE_CHANNELS, device=DEVICE, pretrained=False)
    moleflow = MoLEFlow(backbone, PositionalEmbeddingGenerator(DEVICE), flow, DEVICE, config)
    for prototype in prototypes:
        moleflow.router.add_prototype(prototype)
    return moleflow


def pixels(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8).to(DEVICE)


def counted(moleflow: MoLEFlow, images: torch.Tensor) -> Launches:
    with use_backend("triton"), torch.no_grad():
        moleflow._score_routed(images)  # lays weights out
        with Launches() as launches:
            moleflow._score_routed(images)
    return launches


@cache
def counted_by_default() -> tuple[MoLEFlow, Launches]:
    moleflow = moleflow_of_a_network(AblationConfig(dia_n_blocks=1))
    return moleflow, counted(moleflow, pixels())


def test_launches_of_a_batch() -> None:
    """Outside of backbone and flow: 10; with the 44 of a WideResNet-50-2 and the 43 of 8 + 4 couplings 97."""
    moleflow, launches = counted_by_default()
    counts = launches.counts
    blocks = len(moleflow.router._stack._built[1].blocks)  # one on a GPU
    backbone = {"moleflow::convolution": 15, "_max_pool": 1, "_look_up": 1}
    flow = {"_enter": 1, "_gather_with_context": 2, "_gather_rows": 1, "_relu_product": 4, "_coupling_product": 3}
    likelihood = {"_square_sums": 1, "_nll": 1, "torch.nan_to_num_": 1}  # NaN ranks as anomalous
    features = {"_pool_groups": 2, "torch.sum": 1, "_partial_squares": blocks, "_nearest": 1, "torch.index": 1}
    around = {"_whitening": 1, "_depthwise": 1, "_quantile": 1}
    assert counts == {**backbone, **flow, **likelihood, **features, **around}


def test_launches_of_a_batch_behind_gaussian_fronts() -> None:
    """Three instead of whitening and mixer: an order by task, the whitener, the directions."""
    counts = counted(moleflow_of_a_network(FRONTS), pixels()).counts
    assert not {"_whitening", "_depthwise", "torch.add"} & counts.keys()
    assert counts["torch.sort"] == counts["_whitened"] == counts["_along_directions"] == 1
    assert counts.total() == counted_by_default()[1].total + 1


@pytest.mark.parametrize(
    "name", ["default", "gaussian", "no adapter", "no positions", "plain mixer", "statistics", "no mixer"]
)
def test_a_network_scores_as_its_modules_do(name: str) -> None:
    """Of bytes, and by default of fp32 images too, which only the backbone reads differently."""
    options = {
        "no adapter": {"use_task_adapter": False}, "no positions": {"use_pos_embedding": False},
        "plain mixer": {"spatial_context_mode": "depthwise"}, "statistics": {"spatial_context_mode": "local_stats"},
        "no mixer": {"use_spatial_context": False},
        "gaussian": {"adapter_mode": "gaussian", "use_whitening_adapter": False, "front_directions": 6},
    }.get(name, {})  # fmt: skip
    moleflow = moleflow_of_a_network(AblationConfig(dia_n_blocks=1, **options), blocks=1)
    images = pixels()
    with use_backend("eager"):
        expected = moleflow.routed(images)
    with use_backend("triton"):
        for given in (images, normalized(images)) if name == "default" else (images,):
            actual = moleflow.routed(given)
            assert torch.equal(actual.task_ids, expected.task_ids)
            for a, e in ((actual.maps, expected.maps), (actual.scores, expected.scores)):
                torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6 * float(e.abs().max()))


def test_a_broken_image_ranks_first_and_alone() -> None:
    moleflow = moleflow_of_a_network(AblationConfig(dia_n_blocks=1), blocks=1)
    images = normalized(pixels())
    with use_backend("triton"):
        expected = moleflow.routed(images)
        images[1, 0, 5, 5] = torch.nan
        actual = moleflow.routed(images)
    assert torch.isposinf(actual.maps[1]).all() and torch.isposinf(actual.scores[1])
    assert torch.equal(actual.maps[::2], expected.maps[::2])


@pytest.mark.parametrize("part", ["adapter", "mixer", "backbone"])
def test_what_was_computed_once_is_computed_again(part: str) -> None:
    moleflow, images = moleflow_of_a_network(AblationConfig(dia_n_blocks=1), blocks=1), pixels(2)
    written = {
        "adapter": moleflow.flow.input_adapters["0"].gamma_raw,
        "mixer": moleflow.flow.spatial_mixer.residual_gate,
        "backbone": moleflow.extractor.backbone.conv1.bias,
    }[part]
    with use_backend("triton"):
        before, state = moleflow(images, task_id=0)[0], moleflow._state(images)
        kept = moleflow._state(images)
        assert all(a is b for a, b in zip(state, kept, strict=True))
        with torch.no_grad():
            written.add_(0.5)
        assert not all(a is b for a, b in zip(state, moleflow._state(images), strict=True))
        after = moleflow.routed(images)
    with use_backend("eager"):
        expected = moleflow.routed(images)
    torch.testing.assert_close(after.maps, expected.maps, rtol=1e-5, atol=1e-3)
    assert not torch.equal(before, after.maps)


def test_no_graph_while_an_adapter_trains() -> None:
    moleflow, images = moleflow_of_a_network(AblationConfig(dia_n_blocks=1), blocks=1), pixels(2)
    with use_backend("triton"):
        assert moleflow._state(images) is not None
        moleflow.flow.input_adapters["1"].beta_raw.requires_grad_(True)
        assert moleflow._state(images) is None


def test_whatever_changes_is_in_the_state() -> None:
    trainer, images = trained_on_two(), mixed_images()
    with use_backend("triton"):
        before = trainer.moleflow._state(images)
        assert all(a is b for a, b in zip(before, trainer.moleflow._state(images), strict=True))
        with torch.no_grad():
            trainer.nf_model.dia_adapters["1"].coupling_blocks[0].s_net.layers[0].weight.mul_(2)
        changed = trainer.moleflow._state(images)
        assert not all(a is b for a, b in zip(before, changed, strict=True))
        trainer.router.prototypes[0].update(task_features(0, 9).mean((1, 2)).to(DEVICE))
        moved = trainer.moleflow._state(images)
        assert not all(a is b for a, b in zip(changed, moved, strict=True))


def test_a_new_task_changes_the_state() -> None:
    trainer, images = trained_on_two(), mixed_images()
    with use_backend("triton"):
        before = trainer.moleflow._state(images)
        again = trainer.moleflow._state(images)
        assert all(a is b for a, b in zip(before, again, strict=True))
        with use_backend("cpp" if DEVICE == "cpu" else "eager"):
            train(trainer, 2, epochs=1, device=DEVICE)
        after = trainer.moleflow._state(images)
        assert len(after) > len(before)
        assert trainer.inference(images)[2].tolist() == [1, 0, 1, 0, 1, 0]
