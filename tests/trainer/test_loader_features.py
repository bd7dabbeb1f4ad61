"""An ordinary DataLoader: its own batches in its own order, the backbone once per image."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from run.small_runs import CLASSES, write_data
from small_trainer import make_trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from moleflow_fast.data import create_task_dataset
from moleflow_fast.extractors import PatchExtractor, create_feature_extractor
from moleflow_fast.trainer.loader_features import batches_of
from moleflow_fast.utils.logger import TrainingLogger

SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def extractor() -> PatchExtractor:
    return create_feature_extractor("resnet18", (3, SIZE, SIZE), 16, "cpu", pretrained=False)


def images(data: Path, rotated: bool = False) -> Any:
    args = SimpleNamespace(
        dataset="folder", data_path=data, img_size=SIZE, msk_size=SIZE, use_rotation_aug=rotated, rotation_degrees=90.0
    )
    return create_task_dataset(args, CLASSES[:2], {name: i for i, name in enumerate(CLASSES)}, train=True)


def batches(loader: Any, extractor: Any, tmp_path: Path) -> Any:
    args = SimpleNamespace(cache_dir=tmp_path)
    return batches_of(loader, extractor, torch.device("cpu"), args, logging.getLogger("script"))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_loader_s_own(workers: int, data: Path, extractor: PatchExtractor, tmp_path: Path) -> None:
    loader = DataLoader(images(data), batch_size=5, shuffle=True, drop_last=True, num_workers=workers)
    known = batches(loader, extractor, tmp_path)
    assert len(known) == len(loader)
    for _ in range(2):
        torch.manual_seed(4)
        expected = [extractor(batch[0]) for batch in loader]
        after = torch.rand(3)
        torch.manual_seed(4)
        given = [patches for patches, _ in known]
        assert torch.equal(torch.rand(3), after)
        assert len(given) == len(expected) > 1
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_backbone_runs_once_and_never_where_features_are_stored(
    data: Path, extractor: PatchExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def count(images: Tensor) -> Any:
        nonlocal seen
        seen += len(images)
        return features(images)

    features = extractor.features_with_image_level
    monkeypatch.setattr(extractor, "features_with_image_level", count)
    dataset = images(data)
    for expected in (len(dataset), len(dataset)):
        known = batches(DataLoader(dataset, batch_size=4, shuffle=True), extractor, tmp_path)
        for _ in range(3):
            assert sum(len(patches) for patches, _ in known) == len(dataset)
        assert seen == expected


@pytest.mark.parametrize("kind", ["rotated", "foreign set", "list", "foreign extractor"])
def test_what_may_differ_is_computed_and_said(
    kind: str, data: Path, extractor: PatchExtractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = TensorDataset(torch.randn(6, 3, SIZE, SIZE)) if kind == "foreign set" else images(data, kind == "rotated")
    loader: Any = DataLoader(dataset, batch_size=4)
    if kind == "list":
        loader = list(loader)
    one = extractor.forward if kind == "foreign extractor" else extractor
    given = list(batches(loader, one, tmp_path))
    assert sum(len(patches) for patches, _ in given) == len(dataset)
    assert "the backbone runs over every image in every epoch" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_training_logger_hears_of_every_epoch(data: Path, extractor: PatchExtractor, tmp_path: Path) -> None:
    log = TrainingLogger(tmp_path, "script")
    trainer = make_trainer(cache_dir=tmp_path / "features")
    trainer.moleflow.extractor = extractor
    trainer.set_logger(log)
    for task in range(2):
        trainer.train_task(task, [f"class{task}"], DataLoader(images(data), batch_size=6), num_epochs=2, lr=1e-3)
    assert log.metrics_history["stage"] == ["BASE", "BASE", "FAST", "FAST"]
    assert log.metrics_history["epoch"] == [0, 1, 0, 1] and log.metrics_history["learning_rate"][0] == 1e-3
    text = log.log_file.read_text()
    assert "features of 12 images are known for all epochs" in text and "task 1: class1; 2 epochs" in text


def test_a_task_is_trained_from_a_loader(data: Path, extractor: PatchExtractor, tmp_path: Path) -> None:
    """To the bits of a loader that lists its batches beforehand."""
    losses = []
    for listed in (False, True):
        trainer = make_trainer(cache_dir=tmp_path)
        trainer.moleflow.extractor = extractor
        loader: Any = DataLoader(images(data), batch_size=6)
        records = trainer.train_task(0, ["fabric", "gasket"], list(loader) if listed else loader, 2, 1e-3)
        losses.append([record.loss for record in records])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
