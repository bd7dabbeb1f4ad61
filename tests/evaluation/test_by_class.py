"""What is computed again after a task, and what is not."""

from types import SimpleNamespace

import pytest
import torch

from moleflow_fast.config import AblationConfig
from moleflow_fast.evaluation import by_class, regions, scorer
from moleflow_fast.evaluation.by_class import evaluate_all_tasks, evaluate_class, evaluate_routing_performance
from moleflow_fast.evaluation.scorer import Scorer, TestClass
from moleflow_fast.models.routing import PrototypeRouter

IMAGES, GRID, SIZE = 9, 4, 12


class RandomFeatures:
    """Of a class whose images lie around `centre` (2,), `spread` apart; their maps are random."""

    def __init__(self, centre: torch.Tensor, spread: float, generator: torch.Generator) -> None:
        self.image_features = centre + spread * torch.randn(IMAGES, 2, generator=generator)
        self.patches = torch.randn(IMAGES, GRID, GRID, 1, generator=generator)

    def __len__(self) -> int:
        return IMAGES

    def batches(self, index_batches):
        for index in index_batches:
            yield self.patches[index], self.image_features[index]


class Tasks:
    """A class a task, at the corners of a polygon; experts shift and turn over maps by task id."""

    def __init__(self, count: int, spread: float) -> None:
        self.generator = generator = torch.Generator().manual_seed(count)
        angles = torch.arange(count) * 2 * torch.pi / count
        self.centres = torch.stack([angles.cos(), angles.sin()], 1)
        self.router = PrototypeRouter(use_mahalanobis=False)
        self.moleflow = SimpleNamespace(
            config=AblationConfig(), router=self.router, anomaly_maps=self.maps, task_classes={}
        )
        self.scorer = Scorer(self.moleflow, SIZE, 1.0, "bilinear", batch_size=4)
        masks = torch.rand(count, IMAGES, SIZE, SIZE, generator=generator) < 0.05
        masks[:, :3] = False
        self.tests = [
            TestClass(str(t), t, RandomFeatures(c, spread, generator), m.flatten(1).any(1).long(), m)
            for t, (c, m) in enumerate(zip(self.centres, masks, strict=True))
        ]
        self.expert = 1.0

    def maps(self, patches: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.expert * (-1.0) ** ids[:, None, None] * patches[..., 0] + ids[:, None, None]

    def learn(self, task_id: int) -> list[TestClass]:
        prototype = self.router.new_prototype(task_id)
        prototype.update(self.centres[task_id] + 0.1 * torch.randn(5, 2, generator=self.generator))
        self.router.add_prototype(prototype)
        self.moleflow.task_classes[task_id] = [str(task_id)]
        return self.tests[: task_id + 1]


@pytest.fixture
def evaluated(monkeypatch):
    """(class, ids) of every class evaluation."""
    calls = []

    def spy(scorer, test, task_ids):
        calls.append((test.name, tuple(task_ids.tolist())))
        return evaluate_class(scorer, test, task_ids)

    monkeypatch.setattr(by_class, "evaluate_class", spy)
    return calls


@pytest.mark.parametrize("spread", [0.01, 0.6], ids=["routed_right", "routed_wrong"])
def test_a_class_is_computed_again_only_if_its_route_changed(evaluated, spread):
    tasks = Tasks(6, spread)
    wanted = set()
    for task_id in range(6):
        tests = tasks.learn(task_id)
        routed, oracle = evaluate_all_tasks(tasks.scorer, tests)
        for evaluation, ids_of in ((routed, tasks.scorer.route), (oracle, tasks.scorer.true_ids)):
            for test, result in zip(tests, evaluation.classes, strict=True):
                ids = ids_of(test)
                wanted.add((test.name, tuple(ids.tolist())))
                assert result == evaluate_class(tasks.scorer, test, ids)
    assert len(evaluated) == len(wanted) and set(evaluated) == wanted
    assert len(evaluated) == 6 if spread < 0.1 else len(evaluated) > 6


def test_everything_is_computed_again_once_maps_are_forgotten(evaluated):
    tasks = Tasks(3, 0.01)
    before = after = None
    for task_id in range(3):
        tests = tasks.learn(task_id)
        tasks.expert = -1.0 - task_id
        tasks.scorer.forget_maps(tests)
        before, after = after, evaluate_all_tasks(tasks.scorer, tests)
    assert len(evaluated) == 1 + 2 + 3
    assert before[0].classes[0] != after[0].classes[0]


def test_regions_are_labelled_once_a_class(monkeypatch):
    labelled = []
    monkeypatch.setattr(scorer, "defective_pixels", lambda m: labelled.append(1) or regions.defective_pixels(m))
    tasks = Tasks(3, 0.6)
    for task_id in range(3):
        evaluate_all_tasks(tasks.scorer, tasks.learn(task_id))
    assert len(labelled) == 3


def test_routed_once_for_the_same_prototypes(monkeypatch):
    tasks = Tasks(4, 0.6)
    routed, route = [], tasks.router.route
    monkeypatch.setattr(tasks.router, "route", lambda features: routed.append(1) or route(features))
    for task_id in range(4):
        tests = tasks.learn(task_id)
        evaluate_all_tasks(tasks.scorer, tests)
        _, confusion = evaluate_routing_performance(tasks.scorer, tests)
        assert confusion.sum() == IMAGES * len(tests)
    assert len(routed) == 1 + 2 + 3 + 4
    before = tasks.scorer.route(tests[0])
    tasks.router.prototypes[0].mean += 5  # written to in place
    assert not torch.equal(tasks.scorer.route(tests[0]), before)
    del tasks.router.prototypes[0]
    assert 0 not in tasks.scorer.route(tests[0])
    assert len(routed) == 12


def test_a_class_without_masks_has_image_figures_alone():
    tasks = Tasks(1, 0.01)
    test = tasks.learn(0)[0]
    test.masks = None
    result = evaluate_all_tasks(tasks.scorer, [test])[0].classes[0]
    assert 0 <= result.image_auroc <= 1
    assert all(value != value for value in (result.pixel_auroc, result.pixel_ap, result.pixel_f1, result.aupro))
