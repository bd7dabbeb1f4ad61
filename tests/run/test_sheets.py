"""When a run's classes are drawn, and what becomes of a sheet that cannot be."""

import logging
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from run.small_runs import CLASSES, run

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.data.datasets import FOLDER
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.normalization import normalized
from moleflow_fast.evaluation import drawing_process
from moleflow_fast.evaluation.class_heatmap import ClassSheets, choose_images, sheet_of
from moleflow_fast.evaluation.drawing_process import DrawingProcess
from moleflow_fast.evaluation.scorer import TestClass
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.run import evaluating, learning
from moleflow_fast.run.directory import RunDirectoryError
from moleflow_fast.system.interruption import Interrupted


class Given:
    """A scorer whose routes and maps are given."""

    def __init__(self, images: int) -> None:
        self.moleflow = SimpleNamespace(config=AblationConfig())
        self.ids = torch.zeros(images, dtype=torch.long)
        self.maps = torch.rand(images, 7, 7)

    def route(self, test: TestClass) -> torch.Tensor:
        return self.ids.clone()

    def patch_maps(self, test: TestClass, ids: torch.Tensor) -> torch.Tensor:
        return self.maps.clone()

    def pixel_maps(self, patch_maps: torch.Tensor) -> torch.Tensor:
        return patch_maps.repeat_interleave(4, 1).repeat_interleave(4, 2)


class Pictures:
    samples = [SimpleNamespace(type="good"), SimpleNamespace(type="hole")] * 3

    def picture(self, index: int) -> int:
        return index


class Pixels:
    """A decoder of files that are numbers."""

    def begin(self, files: list[int]) -> Callable[[], np.ndarray]:
        return lambda: np.stack([np.random.default_rng(i).integers(0, 256, (3, 28, 28), np.uint8) for i in files])


def given(tmp_path: Path) -> tuple[ClassSheets, Given, TestClass]:
    scorer = Given(6)
    test = TestClass("wood", 0, None, torch.tensor([0, 1] * 3), torch.rand(6, 28, 28) > 0.9)  # type: ignore[arg-type]
    folder = tmp_path / "heatmaps"
    return ClassSheets(scorer, folder, 4, lambda name: Pictures(), Pixels()), scorer, test  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sheet_shows_what_the_backbone_sees(workers: int, data: Path) -> None:
    dataset = FOLDER(data, "wood", train=False, img_size=31, crp_size=28, msk_size=28)
    labels = torch.tensor([sample.label for sample in dataset.samples])
    masks = torch.stack([dataset.load_mask(i)[0] for i in range(len(dataset))]).bool()
    scorer, test = Given(len(dataset)), TestClass("wood", 0, None, labels, masks)  # type: ignore[arg-type]
    with closing(Decoder(workers)) as decoder:
        sheet = sheet_of(scorer, test, dataset, decoder, 4, scorer.ids, scorer.maps)()  # type: ignore[arg-type]
    chosen = choose_images(labels, image_scores(scorer.maps, scorer.moleflow.config), 4)
    seen = normalized(torch.from_numpy(np.ascontiguousarray(sheet.pictures)).permute(0, 3, 1, 2))
    assert torch.equal(seen, torch.stack([dataset[i][0] for i in chosen]))
    assert sheet.masks is not None and np.array_equal(sheet.masks, masks[chosen].numpy()) and sheet.masks.any()
    assert [caption[0] for caption in sheet.captions] == [dataset.samples[i].type for i in chosen]


def ordered_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    files: list[str] = []
    draw = DrawingProcess.draw

    def order(self: DrawingProcess, file: Path, sheet: Any) -> Any:
        files.append(file.stem)
        return draw(self, file, sheet)

    monkeypatch.setattr(DrawingProcess, "draw", order)
    return files


def test_a_class_is_drawn_again_only_when_routes_or_maps_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ordered_files(monkeypatch)
    sheets, scorer, test = given(tmp_path)
    contents = []
    with sheets:
        for change in (lambda: None, lambda: scorer.ids[1].fill_(2), lambda: scorer.maps[3].add_(9)):
            change()
            sheets.draw(test)
            sheets.draw(test)
            sheets._ordered["wood"].outcome.result(60)
            contents.append((tmp_path / "heatmaps" / "wood.png").read_bytes())
    assert files == ["wood"] * 3
    assert len(set(contents)) == 3


def test_a_sheet_that_failed_is_drawn_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sheets, _, test = given(tmp_path)
    (tmp_path / "heatmaps").write_text("in the way")
    with sheets, caplog.at_level(logging.WARNING):
        sheets.draw(test)
        assert sheets._ordered["wood"].outcome.exception(60) is not None
        (tmp_path / "heatmaps").unlink()
        sheets.draw(test)
        sheets.finish()
    assert (tmp_path / "heatmaps" / "wood.png").exists()
    (record,) = caplog.records
    assert "wood.png could not be written" in record.getMessage() and "drawn again" in record.getMessage()


def test_a_run_draws_each_class_after_its_task(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, order = ordered_files(monkeypatch), []
    train_task = learning.train_task

    def train(run: Any, trainer: Any, directory: Any, task_id: int, *rest: Any) -> None:
        order.append(list(files))
        train_task(run, trainer, directory, task_id, *rest)

    monkeypatch.setattr(learning, "train_task", train)
    result = run(data, tmp_path, num_epochs=1)
    assert order == [[], ["fabric"], ["fabric", "gasket"]]
    written = sorted(file.name for file in result.directory.heatmaps.iterdir())
    assert written == [f"{name}.png" for name in CLASSES]


def test_an_interrupted_run_has_what_was_ordered(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_task = learning.train_task

    def train(run: Any, trainer: Any, directory: Any, task_id: int, *rest: Any) -> None:
        if task_id == 2:
            raise Interrupted(signal.SIGTERM)
        train_task(run, trainer, directory, task_id, *rest)

    monkeypatch.setattr(learning, "train_task", train)
    with pytest.raises(Interrupted):
        run(data, tmp_path, num_epochs=1, experiment_name="run")
    heatmaps = tmp_path / "run" / "heatmaps"
    assert sorted(file.name for file in heatmaps.iterdir()) == ["fabric.png", "gasket.png"]
    monkeypatch.undo()
    run(data, tmp_path, num_epochs=1, experiment_name="run", resume=True)
    assert sorted(file.stem for file in heatmaps.iterdir()) == sorted(CLASSES)


def test_a_run_whose_sheets_cannot_be_written_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    monkeypatch.setattr(evaluating, "ClassSheets", lambda scorer, folder, *rest: ClassSheets(scorer, in_the_way, *rest))
    with pytest.raises(RunDirectoryError, match=r"file/\w+\.png could not be written .*--resume"):
        run(data, tmp_path, num_epochs=1, experiment_name="run", task_classes=CLASSES[:1])
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    run(data, tmp_path, num_epochs=1, experiment_name="run", task_classes=CLASSES[:1], resume=True)
    assert (tmp_path / "run" / "heatmaps" / f"{CLASSES[0]}.png").exists()


def test_no_heat_maps_no_process(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(drawing_process, "start_module", refuse)
    result = run(data, tmp_path, num_epochs=1, task_classes=CLASSES[:1], heatmaps=0)
    assert not result.directory.heatmaps.exists()
    assert (result.directory.path / "routing_confusion.png").exists()
