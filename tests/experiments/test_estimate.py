"""How long a plan takes: which runs share a shape, how many images they see, and real measurements of a small shape."""

from pathlib import Path

import pytest
from run.small_runs import command_line, write_data

from moleflow_fast.cli.sweep import main
from moleflow_fast.experiments import estimate as module
from moleflow_fast.experiments.estimate import Costs, Size, estimate, flow_seconds, measure, shape_of, size_of
from moleflow_fast.experiments.sweep_plan import make_plan
from moleflow_fast.run.asked import parse_options

BASELINE = "MVTec-WRN50-60ep-lr2e4-dia4"


def options(preset: str, *more: str):
    return parse_options(["--preset", preset, "--data_path", "nowhere", *more])


def test_runs_that_differ_in_numbers_alone_share_a_shape() -> None:
    shape = shape_of(options(BASELINE))
    for same in ("MVTec-WRN50-LogdetReg1e-4", "MVTec-WRN50-80ep", "MVTec-WRN50-TopK10", "MVTec-WRN50-lr3e-4"):
        assert shape_of(options(same, "--seed", "3")) == shape
    for other in ("MVTec-WRN50-DIA6", "MVTec-WRN50-LoRA256", "MVTec-WRN50-ScaleCtxK5", "paper-best-mvtec"):
        assert shape_of(options(other)) != shape
    assert shape_of(options(BASELINE, "--batch_size", "8")) != shape


def test_published_sizes_where_there_are_no_data() -> None:
    assert size_of(options(BASELINE)) == Size((242,) * 15, 1725)
    assert size_of(options("MVTec-WRN50-CL-14x1")) == Size((3387, 242), 1725)
    assert size_of(options(BASELINE, "--task_classes", "tile", "wood", "grid")) == Size((242,) * 3, 345)


def test_images_are_counted_where_the_data_are(tmp_path: Path) -> None:
    words = command_line(write_data(tmp_path), tmp_path, cl_scenario="2-1")
    assert size_of(parse_options(words)) == Size((12, 6), 3 * (3 + 3 * 1))


def test_a_run_s_time_is_whole_batches_times_epochs_and_each_test_image_once() -> None:
    costs = Costs(backbone=100.0, first_task=2.0, later_task=1.0, scoring=0.5)
    run = options(BASELINE, "--num_epochs", "3", "--batch_size", "16")
    assert flow_seconds(run, Size((33, 20, 7), 10), costs) == 3 * (2.0 * 32 + 1.0 * (16 + 7)) + 0.5 * 10


def test_the_backbone_runs_once_for_all_that_share_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", lambda shape: Costs(1.0, 0.0, 0.0, 0.0))
    told = []
    runs = make_plan([BASELINE, "MVTec-WRN50-DIA6", "MVTec-ViT-60ep"], [0, 1], {}, {"mvtec": "nowhere"}, []).runs
    result = estimate(runs, lambda done, total: told.append((done, total)))
    assert (result.runs, result.shapes, result.flow) == (6, 3, 0.0)
    assert result.backbone == 2 * (15 * 242 + 1725)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_small_shape_is_measured(tmp_path: Path) -> None:
    words = command_line(write_data(tmp_path), tmp_path, dia_n_blocks=1)
    costs = measure(shape_of(parse_options(words)))
    assert all(0 < seconds < 60 for seconds in (costs.backbone, costs.first_task, costs.later_task, costs.scoring))


def test_the_command_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(module, "measure", lambda shape: Costs(0.1, 0.2, 0.1, 0.0))
    assert main(["-o", str(tmp_path / "x"), "--presets", BASELINE, "--data_path", "nowhere", "--estimate"]) == 0
    shown = capsys.readouterr().out
    assert "1 runs of 1 shapes" in shown and "6.4 h of training and scoring, 9 min of backbone" in shown
    assert not (tmp_path / "x").exists()
