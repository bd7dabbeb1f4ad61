"""The published arrangement and ours are the same function: otherwise no ratio of their times means anything."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace

import published_adamp
import pytest
import torch
from published import (
    PublishedInference,
    PublishedTraining,
    TokenStatistics,
    published_evaluation,
    published_extractor,
    published_model,
)
from small_trainer import DIM, GRID, TensorSource, make_trainer, task_features

from moleflow_fast.backend import use_backend
from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.data.normalization import Normalization
from moleflow_fast.evaluation.by_class import evaluate_class
from moleflow_fast.evaluation.scorer import Scorer, TestClass
from moleflow_fast.extractors import CNNPatchCoreExtractor, create_feature_extractor
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.models.statistics import FeatureStatistics
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

CONFIGS = {
    "default": AblationConfig(),
    "dia 3": AblationConfig(dia_n_blocks=3),
    "no scale context": AblationConfig(use_scale_context=False),
    "no lora": AblationConfig(use_lora=False),
    "bare": AblationConfig(use_dia=False, use_task_adapter=False, use_spatial_context=False),
}


def begun_trainer(task_id: int, config: AblationConfig) -> MoLEContinualTrainer:
    """Tasks up to `task_id` begun, every parameter away from its start."""
    trainer = make_trainer(config)
    for task in range(task_id + 1):
        trainer._begin_task(task)
    with torch.no_grad():
        for parameter in trainer.nf_model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return trainer


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("task_id", [0, 1])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_same_outputs_and_gradients(config: AblationConfig, task_id: int, backend: str) -> None:
    model = begun_trainer(task_id, config).nf_model
    published = published_model(model)
    x = task_features(task_id, images=3)
    with use_backend(backend):
        z, logdet = model(x)
        (0.5 * (z**2).sum() - logdet.sum()).backward()
    other_z, other_logdet = published(x)
    (0.5 * (other_z**2).sum() - other_logdet.sum()).backward()
    torch.testing.assert_close(other_z, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_logdet, logdet, rtol=1e-5, atol=1e-5)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients
    for name, parameter in published.named_parameters():
        if name in gradients:
            scale = float(gradients[name].abs().max())
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-5 * max(scale, 1.0))


def test_permutation_is_a_dense_product() -> None:
    model = begun_trainer(0, AblationConfig()).nf_model
    published = published_model(model)
    for block, ours in zip(published.flow.module_list, model.flow.module_list, strict=True):
        assert block.w_perm.shape == (DIM, DIM)
        x = torch.randn(5, DIM)
        assert torch.equal(x @ block.w_perm.T, x[:, ours.perm_index])


def test_model_stays_untouched() -> None:
    model = begun_trainer(0, AblationConfig()).nf_model
    names = set(model.state_dict())
    published_model(model)
    assert type(model) is MoLESpatialAwareNF
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("task_id", [0, 1])
def test_same_steps(task_id: int) -> None:
    trainer = begun_trainer(task_id, AblationConfig())
    stage = trainer._stages(task_id, 10, 1e-3)[0]
    trainer._begin(task_id, stage)
    published = PublishedTraining(published_model(trainer.nf_model), task_id, 1e-3)
    stage.set_rate(0 if task_id == 0 else 1)  # the full rate
    patches = task_features(task_id, images=4)
    for _ in range(3):
        trainer._start_step(task_id, stage, patches)
        assert published.step(patches) == pytest.approx(stage.steps.finish()[0], rel=1e-5)
    for ours, theirs in zip(stage.params, published.params, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_without_its_package_the_optimizer_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("adamp")
    monkeypatch.setitem(sys.modules, "adamp", None)
    substitute = runpy.run_path(published_adamp.__file__)["AdamP"]
    assert issubclass(substitute, torch.optim.Optimizer) and substitute is not package.AdamP
    weights = []
    for make in (package.AdamP, substitute):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        optimizer = make([weight], lr=0.1, weight_decay=0.01)
        for step in range(3):
            weight.grad = torch.cos(torch.arange(12.0) + step).view(3, 4)
            optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(weights[1], weights[0])


def test_token_statistics() -> None:
    batches = [task_features(t, images=2) for t in range(2)]
    tokens, exact = TokenStatistics(DIM), FeatureStatistics()
    for batch in batches:
        tokens.update(batch)
        exact.update(batch)
    torch.testing.assert_close(tokens.mean, exact.mean)
    torch.testing.assert_close((tokens.squares / (tokens.count - 1) + 1e-6).sqrt(), exact.std)


def test_same_inference() -> None:
    torch.manual_seed(0)
    extractor = create_feature_extractor("resnet18", (3, 64, 64), 32, "cpu", pretrained=False)
    assert isinstance(extractor, CNNPatchCoreExtractor)
    model = MoLESpatialAwareNF(32, 2, lora_rank=3, ablation_config=AblationConfig())
    trainer = MoLEContinualTrainer(extractor, PositionalEmbeddingGenerator(), model, SimpleNamespace(seed=0))
    images = torch.randint(256, (11, 3, 64, 64), dtype=torch.uint8)  # more than a batch of 8
    features = extractor.get_image_level_features(Normalization()(images))
    for task_id in range(3):
        trainer._begin_task(task_id)
        trainer.build_prototype(task_id, features[task_id::3].repeat(8, 1) + 1e-3 * torch.randn(1, 32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    maps, scores, ids = trainer.inference(images)
    published = PublishedInference(published_extractor(extractor, 64), published_model(model), trainer.router)
    other_maps, other_scores, other_ids = published(images)
    assert len(ids.unique()) > 1
    assert torch.equal(other_ids, ids)
    torch.testing.assert_close(other_maps, maps, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(other_scores, scores, rtol=1e-4, atol=1e-3)


def test_same_evaluation() -> None:
    maps = torch.randn(10, *GRID)
    masks = torch.zeros(10, 20, 20, dtype=torch.bool)
    masks[4:, 3:9, 5:12] = True
    test = TestClass("class", 0, TensorSource(maps[..., None]), masks.flatten(1).any(1).long(), masks)
    moleflow = SimpleNamespace(config=AblationConfig(), anomaly_maps=lambda patches, ids: patches[..., 0])
    scorer = Scorer(moleflow, 20, 2.0, "bilinear", batch_size=4)  # type: ignore[arg-type]
    ours = evaluate_class(scorer, test, scorer.true_ids(test))
    published = published_evaluation(maps, test.labels, masks, sigma=2.0)
    for metric, value in published._asdict().items():
        assert value == pytest.approx(getattr(ours, metric), abs=1e-6), metric
