"""The published evaluation: keys, types and figures, against scikit-learn on what the trainer's own inference gives."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from run.small_runs import CLASSES, write_data
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from moleflow_fast import evaluate_all_tasks, evaluate_class, evaluate_routing_performance
from moleflow_fast.config import AblationConfig
from moleflow_fast.data import create_task_dataset
from moleflow_fast.data.data_error import DataError
from moleflow_fast.data.datasets import FOLDER
from moleflow_fast.evaluation import evaluator
from moleflow_fast.extractors import create_feature_extractor
from moleflow_fast.models import MoLESpatialAwareNF, PositionalEmbeddingGenerator
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.loader_features import features_of

SIZE = 64


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("published")
    return SimpleNamespace(
        dataset="folder", data_path=str(write_data(folder)), img_size=SIZE, msk_size=SIZE, use_rotation_aug=False,
        rotation_degrees=180.0, seed=0, cache_dir=folder / "features",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trainer(args: Any) -> MoLEContinualTrainer:
    torch.manual_seed(0)
    flow = MoLESpatialAwareNF(16, 2, lora_rank=2, device="cpu", ablation_config=AblationConfig())
    extractor = create_feature_extractor("resnet18", (3, SIZE, SIZE), 16, "cpu", pretrained=False)
    made = MoLEContinualTrainer(extractor, PositionalEmbeddingGenerator("cpu"), flow, args)
    for task, name in enumerate(CLASSES):
        data = create_task_dataset(args, [name], {name: 0})
        made.train_task(task, [name], torch.utils.data.DataLoader(data, batch_size=3), num_epochs=2, lr=1e-2)
    return made


def by_hand(trainer: MoLEContinualTrainer, args: Any, name: str, task_id: int | None) -> dict[str, float]:
    data = FOLDER(args.data_path, name, train=False, img_size=SIZE, crp_size=SIZE, msk_size=224)
    images, labels, masks = (torch.stack([torch.as_tensor(item[k]) for item in data]) for k in (0, 1, 2))
    maps, scores, _ = trainer.inference(images, task_id)
    large = torch.nn.functional.interpolate(maps[:, None], 224, mode="bilinear", align_corners=True)[:, 0]
    smooth = np.stack([gaussian_filter(one.numpy(), 4.0) for one in large])
    pixels, truth = smooth.ravel(), (masks.numpy().ravel() > 0).astype(int)
    return {
        "img_auc": roc_auc_score(labels, scores),
        "img_ap": average_precision_score(labels, scores),
        "pixel_auc": roc_auc_score(truth, pixels),
        "pixel_ap": average_precision_score(truth, pixels),
    }


@pytest.mark.parametrize("task_id", [None, 0, 2])
@pytest.mark.parametrize("name", CLASSES[:2])
def test_a_class(name: str, task_id: int | None, trainer: MoLEContinualTrainer, args: Any) -> None:
    result = evaluate_class(trainer, name, args, task_id, ground_truth_task_id=1)
    expected = by_hand(trainer, args, name, task_id)
    assert {key: result[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert result["n_samples"] == 6 == sum(result["routing_distribution"].values())
    assert (result["routing_accuracy"] is None) == (task_id is not None)
    if task_id is not None:
        assert result["routing_distribution"] == {task_id: 6}
    assert evaluate_class(trainer, name, args)["routing_accuracy"] is None


def test_all_tasks(trainer: MoLEContinualTrainer, args: Any) -> None:
    results = evaluate_all_tasks(trainer, args)
    assert results["classes"] == list(CLASSES) and results["task_ids"] == [0, 1, 2]
    for i, name in enumerate(CLASSES):
        single = evaluate_class(trainer, name, args, ground_truth_task_id=i)
        for key in ("img_auc", "pixel_auc", "img_ap", "pixel_ap"):
            assert results[f"{key}s"][i] == results[f"class_{key}s"][name] == single[key]
            assert results[f"task_avg_{key}s"][i] == single[key]
        assert results["routing_accuracies"][i] == single["routing_accuracy"]
        assert results["routing_distributions"][i] == single["routing_distribution"]
    assert results["mean_pixel_ap"] == pytest.approx(np.mean(results["pixel_aps"]))
    weights = results["n_samples"]
    assert results["mean_routing_accuracy"] == pytest.approx(np.average(results["routing_accuracies"], weights=weights))
    assert len(results) == 9 + 5 + 5 + 5


def test_true_tasks(trainer: MoLEContinualTrainer, args: Any) -> None:
    results = evaluate_all_tasks(trainer, args, use_router=False)
    assert results["routing_accuracies"] == [None] * 3 and results["mean_routing_accuracy"] is None
    assert results["task_avg_routing_accuracies"] == {}
    assert results["routing_distributions"] == [{0: 6}, {1: 6}, {2: 6}]


def test_routing(trainer: MoLEContinualTrainer, args: Any) -> None:
    routing = evaluate_routing_performance(trainer, args)
    assert routing["class_name"] == list(CLASSES) and routing["ground_truth_task"] == [0, 1, 2]
    matrix = np.stack([np.bincount(ids, minlength=3) for ids in routing["predicted_tasks"]])
    assert (routing["confusion_matrix"] == matrix).all() and matrix.sum() == 18
    assert routing["correct_count"] == list(matrix.diagonal()) and routing["total_count"] == [6, 6, 6]
    assert routing["overall_accuracy"] == pytest.approx(matrix.trace() / 18)
    assert routing["task_accuracies"] == pytest.approx({t: matrix[t, t] / 6 for t in range(3)})


def test_an_extractor_of_one_s_own(trainer: MoLEContinualTrainer, args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = evaluate_class(trainer, CLASSES[0], args, 0)
    monkeypatch.setattr(trainer.moleflow, "extractor", trainer.vit_extractor.forward)
    computed = evaluate_class(trainer, CLASSES[0], args, 0)
    for name in ("routing_distribution", "routing_accuracy"):
        assert computed.pop(name) == known.pop(name)
    assert computed == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize(("view", "seen"), [("crop", "crop"), ("whole", "whole"), ("tiles", "whole")])
def test_pictures_are_seen_as_in_training(
    view: str, seen: str, trainer: MoLEContinualTrainer, args: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = []

    def features(dataset: Any, *rest: Any) -> Any:
        views.append(dataset.frame.square.view)
        return features_of(dataset, *rest)

    monkeypatch.setattr(evaluator, "features_of", features)
    evaluate_class(trainer, CLASSES[0], SimpleNamespace(**{**vars(args), "view": view}), 0)
    assert views == [seen]


def test_nothing_learned(trainer: MoLEContinualTrainer, args: Any, caplog: pytest.LogCaptureFixture) -> None:
    flow = MoLESpatialAwareNF(16, 1, lora_rank=2, device="cpu", ablation_config=AblationConfig())
    empty = MoLEContinualTrainer(trainer.vit_extractor, PositionalEmbeddingGenerator("cpu"), flow, args)
    results = evaluate_all_tasks(empty, args)
    assert results["classes"] == [] and results["mean_img_auc"] == 0.0 and "no task" in caplog.text


def test_a_class_that_is_not_there(trainer: MoLEContinualTrainer, args: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="screws"):
        evaluate_class(trainer, "screws", args)
