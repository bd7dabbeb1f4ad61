"""Products that routing cannot tell apart are named."""

import shutil
from pathlib import Path

import pytest
import torch
from run.small_runs import arguments, write_data

from moleflow_fast.config.options import RunOptions
from moleflow_fast.evaluation.twins import twins
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.session import ContinualRun

NAMES = [["bolt"], ["nut", "ring"], ["pin"]]


def said(*rows: list[int]) -> list[str]:
    return list(twins(torch.tensor(rows), NAMES))


def test_from_one_in_ten_on() -> None:
    assert said([10, 0, 0], [0, 10, 0], [0, 0, 10]) == []
    assert said([9, 1, 0], [0, 10, 0], [0, 0, 10]) == []  # one of twenty
    (line,) = said([9, 1, 0], [1, 9, 0], [0, 0, 10])
    assert line.startswith(
        "bolt and nut, ring look alike to the router, which took 1 of 10 test images of bolt for nut, ring and 1 of 10 "
    )
    assert "--product bolt" in line
    assert len(said([0, 5, 5], [0, 10, 0], [0, 0, 10])) == 2
    assert said([0, 0, 0], [0, 10, 0], [0, 0, 0]) == []  # no images


def test_a_run_of_twins_says_so_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path)
    shutil.rmtree(data / "gasket")
    shutil.rmtree(data / "fabric")
    shutil.copytree(data / "wood", data / "wood_b")
    options = RunOptions(**arguments(data, tmp_path / "logs", num_epochs=1, heatmaps=0))
    ContinualRun(options, RunConsole(quiet=True)).execute()
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("wood and wood_b look alike to the router") == 1
    assert "6 of 6 test images of wood_b for wood" in text and "--product wood" in text
