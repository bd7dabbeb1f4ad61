"""Nearest neighbours against their definitions, and the bench's file against the evaluation of a run."""

from __future__ import annotations

from pathlib import Path

import coreset
import patch_knn
import pytest
import torch
from run.small_runs import CLASSES, command_line, rows, write_data
from torch import Tensor

from moleflow_fast.config.command_line import build_parser, options_of
from moleflow_fast.evaluation.by_class import ClassResult
from moleflow_fast.evaluation.metrics import aupro, ranking_metrics
from moleflow_fast.ops.pixel_map import pixel_map_reference
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run

BANK = 70


def distances(points: Tensor, centers: Tensor) -> Tensor:
    """(n, m), in fp64 from differences."""
    return (points.double()[:, None] - centers.double()).norm(dim=2)


def farthest_first(points: Tensor, size: int) -> list[int]:
    chosen = [0]
    while len(chosen) < size:
        gaps = distances(points, points[chosen]).amin(1)
        gaps[chosen] = -1
        chosen.append(int(gaps.argmax()))
    return chosen


@pytest.mark.parametrize(("count", "size"), [(700, 400), (131, 131), (5, 9), (1, 1)])
def test_greedy_k_center(count: int, size: int) -> None:
    points = torch.randn(count, 7, dtype=torch.float64)
    assert coreset.k_center(points, size).tolist() == farthest_first(points, min(size, count))


def test_duplicates_are_chosen_last_and_once() -> None:
    points = torch.randn(40, 3, dtype=torch.float64).repeat(5, 1)
    chosen = coreset.k_center(points, 150).tolist()
    assert len(set(chosen)) == 150
    assert sorted(i % 40 for i in chosen[:40]) == list(range(40))


@pytest.mark.parametrize("choose", patch_knn.CORESETS.values())
def test_a_coreset_is_that_of_its_seed(choose: patch_knn.Choose) -> None:
    patches = torch.randn(300, 20)
    chosen = choose(patches, 50, 3)
    assert torch.equal(chosen, choose(patches, 50, 3))
    assert not torch.equal(chosen, choose(patches, 50, 4))
    assert len(set(chosen.tolist())) == 50


@pytest.mark.parametrize("count", [1, 3, 2049])
def test_nearest_distances_far_from_the_origin(count: int) -> None:
    patches, bank = 100 + torch.randn(count, 20), 100 + torch.randn(33, 20)
    expected = distances(patches, bank).amin(1)
    # Of two that are as near but for the product's rounding either may be taken.
    torch.testing.assert_close(coreset.nearest_distances(patches, bank).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_figures_are_those_of_a_brute_force(tmp_path: Path) -> None:
    data, file = write_data(tmp_path), tmp_path / "rows.csv"
    argv = command_line(data, tmp_path)
    own = ["--csv", str(file), "--bank_patches", str(BANK), "--coreset", "greedy", "random"]
    assert patch_knn.main([*argv, *own]) == 0
    table = rows(file)
    assert [(row["coreset"], row["class_name"]) for row in table] == [
        (kind, name) for kind in ("greedy", "random") for name in CLASSES
    ]
    run_columns = ["ids", *ClassResult.__dataclass_fields__]
    assert [name for name in table[0] if name in run_columns] == run_columns[:-1]  # all but routing_accuracy

    run = Run(RunContext(options_of(build_parser(), argv), RunConsole(quiet=True)))
    for row in table:
        task_id = int(row["task_id"])
        patches = run.features.training([row["class_name"]]).patches(torch.arange(6)).flatten(0, 2)
        bank = patches[patch_knn.CORESETS[row["coreset"]](patches, BANK, 0)]
        test = run.features.test_class(row["class_name"], task_id)
        maps = test.source.patches(torch.arange(len(test)))  # type: ignore[attr-defined]
        maps = distances(maps.flatten(0, 2), bank).amin(1).view(maps.shape[:3])
        pixels = pixel_map_reference(maps, 64, 4.0)
        assert test.masks is not None
        expected = [
            *ranking_metrics(maps.flatten(1).quantile(0.99, dim=1), test.labels)[:2],
            *ranking_metrics(pixels, test.masks)[:2],
            aupro(pixels, test.masks),
        ]
        assert [float(row[name]) for name in patch_knn.FIGURES] == pytest.approx(expected, abs=1e-3)
        assert int(row["bank_bytes"]) == BANK * 32 * 4 and float(row["build_seconds"]) > 0
        assert row["ids"] == "oracle" and int(row["images"]) == len(test)


def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        patch_knn.main(["--csv", str(tmp_path / "rows.csv"), "--bank_patches", "0"])
    assert "--bank_patches must be at least 1" in capsys.readouterr().err
    argv = ["--csv", str(tmp_path / "rows.csv"), "--dataset", "folder", "--data_path", str(tmp_path / "none")]
    assert patch_knn.main([*argv, "--random_backbone"]) == 1
    assert "error: " in capsys.readouterr().err
