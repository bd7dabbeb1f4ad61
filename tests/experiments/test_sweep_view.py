"""What a sweep shows while it goes on."""

import io

import pytest
import rich.console

from moleflow_fast.console import Console
from moleflow_fast.experiments.sweep_view import Progress, SweepView, ranking

MEANS = {"image_auroc": 0.91234, "pixel_ap": None}


@pytest.fixture
def console() -> Console:
    shown = Console(quiet=True)
    shown.console = rich.console.Console(file=io.StringIO(), width=100)
    return shown


def text(console: Console) -> str:
    return console.console.file.getvalue()


def test_a_line_an_event_where_there_is_no_terminal(console: Console) -> None:
    view = SweepView(console, 3)
    with view.shown():
        view.skipped(1)
        view.finished("a-seed0", MEANS, 75)
        view.lost("b-seed0", "its worker was lost", again=True)
        view.lost("b-seed0", "out of memory", again=False)
    assert text(console).splitlines() == [
        "[2/3] a-seed0: image AUROC 0.9123, pixel AP -, 75 s",
        "[2/3] b-seed0: tried again: its worker was lost",
        "[3/3] b-seed0: FAILED: out of memory",
    ]


def test_the_live_picture_counts_and_shows_what_is_at_work(console: Console) -> None:
    view = SweepView(console, 5)
    view.finished("a-seed0", MEANS, 7200)
    view.lost("b-seed0", "out of memory", again=False)
    console.console = rich.console.Console(file=io.StringIO(), width=100)
    console.console.print(view._picture([Progress("c-seed0", 2, 5, 60)]))
    lines = [" ".join(line.split()) for line in text(console).splitlines()]
    assert lines[:3] == [
        "a-seed0 image AUROC 0.9123, pixel AP -, 2.0 h",
        "b-seed0 FAILED: out of memory",
        "c-seed0 task 2, epoch 5/60",
    ]
    assert lines[3].startswith("1 of 5 runs done, 1 failed, 1 at work, 2 waiting, about")


def test_ranking_is_by_the_mean_over_seeds(console: Console) -> None:
    def record(name: str, auroc: float | None, status: str = "finished") -> dict:
        routed = {"image_auroc": auroc, "pixel_auroc": 0.5, "pixel_ap": None, "routing_accuracy": 1.0}
        return {"name": name, "status": status, "routed": routed}

    runs = [record("low", 0.9), record("high", 0.7), record("high", 0.99), record("low", 0.7)]
    console.console.print(ranking([*runs, record("x", 1.0, "failed")]))
    shown = [line.split("│")[1:4] for line in text(console).splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in shown] == [["high", "2", "0.8450"], ["low", "2", "0.8000"]]
