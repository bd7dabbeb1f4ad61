"""The process that draws: what it writes, what it says when it cannot, and when it ends."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from moleflow_fast.evaluation import drawing_process
from moleflow_fast.evaluation.drawing_process import WAITING, DrawingProcess
from moleflow_fast.evaluation.sheet import Sheet, draw_sheet
from moleflow_fast.system.files import WriteFailed


def random_sheet(seed: int) -> Sheet:
    rng = np.random.default_rng(seed)
    pictures, heat = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((2, 61, 61, 3), (2, 61, 61)))
    masks = rng.random((2, 32, 32)) < 0.2
    return Sheet(f"class {seed}", "note", pictures, masks, heat, [("scratch", "0.5")] * 2, (0.0, 1.0))


@pytest.fixture
def drawing() -> Iterator[DrawingProcess]:
    process = DrawingProcess()
    yield process
    process.close()
    assert children() == []


def children() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [p for p in found if any("drawing_child" in word for word in p.cmdline())]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_its_files_are_those_of_drawing_here(drawing: DrawingProcess, tmp_path: Path) -> None:
    assert children() == []  # before there is something to draw
    numbers = range(WAITING + 3)
    futures = [drawing.draw(tmp_path / "there" / f"{i}.png", lambda i=i: random_sheet(i)) for i in numbers]
    for i, future in enumerate(futures):
        future.result(60)
        draw_sheet(tmp_path / "here.png", random_sheet(i))
        assert (tmp_path / "there" / f"{i}.png").read_bytes() == (tmp_path / "here.png").read_bytes()
    assert len(children()) == 1 and children()[0].nice() > psutil.Process().nice()


def test_what_cannot_be_written_is_named_and_the_next_is_drawn(drawing: DrawingProcess, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    failed = drawing.draw(tmp_path / "folder" / "a.png", lambda: random_sheet(0))
    broken = drawing.draw(tmp_path / "b.png", lambda: Sheet("b", "", np.zeros(3), None, np.zeros(3), [], (0, 1)))  # type: ignore[arg-type]
    good = drawing.draw(tmp_path / "c.png", lambda: random_sheet(0))
    with pytest.raises(WriteFailed, match=r"folder/a\.png could not be written"):
        failed.result(60)
    with pytest.raises(WriteFailed, match=r"b\.png could not be drawn \(\w+Error: .+\)"):
        broken.result(60)
    good.result(60)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.png", "folder"]


def test_an_image_that_cannot_be_read(drawing: DrawingProcess, tmp_path: Path) -> None:
    def unreadable() -> Sheet:
        raise OSError("image.png is gone")

    with pytest.raises(OSError, match="image.png is gone"):
        drawing.draw(tmp_path / "a.png", unreadable).result(60)
    drawing.draw(tmp_path / "a.png", lambda: random_sheet(1)).result(60)


def test_it_is_started_again_when_it_was_killed(drawing: DrawingProcess, tmp_path: Path) -> None:
    drawing.draw(tmp_path / "a.png", lambda: random_sheet(0)).result(60)
    (child,) = children()
    child.suspend()
    future = drawing.draw(tmp_path / "b.png", lambda: random_sheet(0))
    time.sleep(0.1)
    child.kill()
    with pytest.raises(WriteFailed, match=r"b\.png could not be written \(the process that draws ended .*-9\)"):
        future.result(60)
    drawing.draw(tmp_path / "b.png", lambda: random_sheet(0)).result(60)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_signals_are_left_to_the_run(drawing: DrawingProcess, tmp_path: Path) -> None:
    drawing.draw(tmp_path / "a.png", lambda: random_sheet(0)).result(60)
    (child,) = children()
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGTERM)
    drawing.draw(tmp_path / "b.png", lambda: random_sheet(1)).result(60)
    assert children() == [child]


def test_what_was_ordered_is_there_when_it_is_closed(tmp_path: Path) -> None:
    drawing = DrawingProcess()
    for i in range(WAITING):
        drawing.draw(tmp_path / f"{i}.png", lambda i=i: random_sheet(i))
    drawing.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{i}.png" for i in range(WAITING)]
    assert children() == []


def test_the_end_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = DrawingProcess()
    drawing.draw(tmp_path / "a.png", lambda: random_sheet(0)).result(60)
    children()[0].suspend()
    late, waits = (drawing.draw(tmp_path / name, lambda: random_sheet(0)) for name in ("b.png", "c.png"))
    monkeypatch.setattr(drawing_process, "PATIENCE", 0.2)
    drawing.close()
    assert isinstance(late.exception(0), WriteFailed) and waits.cancelled()
    assert children() == []


def test_it_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from evaluation.test_drawing_process import *\n"
        "drawing = DrawingProcess()\n"
        "drawing.draw(Path(sys.argv[1]), lambda: random_sheet(0)).result(60)\n"
        "print(children()[0].pid, flush=True)\n"
        "time.sleep(600)"
    )
    argv = [sys.executable, "-P", "-c", code, str(tmp_path / "a.png"), str(Path(__file__).parents[1])]
    owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = psutil.Process(int(owner.stdout.readline()))
    assert child.is_running()
    owner.kill()
    owner.communicate()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)
