"""The prediction of a step names what it takes from the measured files, and its tables add up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import predict_step
import pytest
from predict_step import BLOCKS, COUPLINGS, WHAT, Line, Measured, comparison, detail, lines, milliseconds, today


@pytest.fixture(scope="module")
def files() -> Measured:
    return Measured()


@pytest.fixture(scope="module")
def every(files: Measured) -> list[Line]:
    return lines(files)


def figures(table: str) -> Iterator[tuple[str, list[float]]]:
    """Of each line but the heading."""
    for line in table.splitlines()[2:]:
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        yield first, [float(cell.replace(",", "") or 0) for cell in others]


def test_what_a_line_is_from_is_in_the_files(files: Measured, every: list[Line]) -> None:
    for line in every:
        names = re.findall(r"(way|step|task flow) (`[^`]+`(?:, `[^`]+`)*)", line.source)
        assert names or line.source.startswith("derived: "), line.part
        known = {"way": files.ways, "step": files.kernels, "task flow": files.task_flow}
        for kind, quoted in names:
            assert all(name in known[kind] for name in re.findall("`([^`]+)`", quoted)), line.source


def test_a_way_that_was_not_measured_is_an_error(files: Measured) -> None:
    with pytest.raises(KeyError):
        files.way("coupling seq K=768 keep (256, 256, 64, 8, 3)")


def test_measured_times_are_those_of_the_files(files: Measured, every: list[Line]) -> None:
    found = {line.part: line for line in every}
    assert found["base block: coupling"].us == files.ways[predict_step.COUPLING]["cold_us"]
    assert found["base block: hidden gradients"].us == pytest.approx(files.ways[predict_step.HIDDEN]["cold_us"] * 9 / 5)
    assert found["loss"].us == pytest.approx(13.0 + 16.7 + 2.0 + 1.2) and found["loss"].launches == 4


def test_blocks_and_couplings_are_whole(every: list[Line]) -> None:
    assert {line.times for line in every if line.part.startswith("base block")} == {BLOCKS}
    assert {line.times for line in every if line.part.startswith("task coupling")} == {COUPLINGS}
    assert {line.what for line in every} <= set(WHAT)


def test_all_of_todays_step_is_in_the_comparison(files: Measured) -> None:
    now = today(files)
    assert sum(launches for launches, _ in now.values()) == files.whole["launches"]
    assert sum(us for _, us in now.values()) == pytest.approx(files.whole["kernel_us"], rel=1e-3)


def test_columns_add_up(files: Measured, every: list[Line]) -> None:
    *parts, (last, whole) = figures(comparison(files, every))
    assert last == "step"
    for column, total in zip(zip(*(cells for _, cells in parts), strict=True), whole, strict=True):
        assert sum(column) == pytest.approx(total, abs=0.5 * len(parts))
    assert whole[3] == pytest.approx(1e3 * milliseconds(files, every)[0], abs=1)


def test_a_line_counts_as_often_as_it_runs(files: Measured, every: list[Line]) -> None:
    before, _ = milliseconds(files, every)
    slower = [replace(line, us=line.us + 10) if line.part == "base block: coupling" else line for line in every]
    assert milliseconds(files, slower)[0] - before == pytest.approx(BLOCKS * 10e-3)
    assert len(detail(every).splitlines()) == len(every) + 2


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    predict_step.main()
    said = capsys.readouterr().out
    assert re.search(r"Predicted: \d\.\d\d ms", said) and "| step | 1,296 | 8,0" in said
