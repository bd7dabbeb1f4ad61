"""What is seen on a sheet of heat maps, by pixel."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from moleflow_fast.evaluation.overlays import turbo
from moleflow_fast.evaluation.sheet import CELL, GAP, MARGIN, Sheet, column, draw_sheet, ticks

N = 3
LIME = (0, 255, 0)


def random_sheet(
    side: int = CELL,
    mask_side: int | None = 256,
    title: str = "wood",
    captions: list[tuple[str, str]] | None = None,
    n: int = N,
) -> Sheet:
    rng = np.random.default_rng(side)
    masks = None if mask_side is None else np.zeros((n, mask_side, mask_side), bool)
    return Sheet(
        title,
        "colours from the median normal pixel to the hottest shown",
        rng.integers(60, 200, (n, side, side, 3), dtype=np.uint8),
        masks,
        rng.integers(0, 60, (n, side, side), dtype=np.uint8),
        captions or [("scratch", "3.25")] * n,
        (-1.5, 7.25),
    )


def drawn(sheet: Sheet, folder: Path) -> np.ndarray:
    draw_sheet(folder / "sheet.png", sheet)
    assert [file.name for file in folder.iterdir()] == ["sheet.png"]
    with Image.open(folder / "sheet.png") as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        return np.asarray(picture).astype(int)


def cell(pixels: np.ndarray, row: int, index: int) -> np.ndarray:
    top = len(pixels) - MARGIN - (2 - row) * CELL - (1 - row) * GAP
    return pixels[top : top + CELL, column(index) : column(index) + CELL]


def limeness(pixels: np.ndarray) -> np.ndarray:
    """1 where lime, about 0 where grey."""
    return np.clip((pixels[..., 1] - pixels[..., [0, 2]].max(-1)) / 255, 0, 1)


@pytest.mark.parametrize("mask_side", [64, 97, 256, 1000])
def test_the_defect_is_outlined_in_lime_and_nothing_else(mask_side: int, tmp_path: Path) -> None:
    sheet = random_sheet(mask_side=mask_side)
    sheet.pictures[:] = sheet.pictures[..., :1]  # grey
    rows, columns = (slice(int(a * mask_side), int(b * mask_side)) for a, b in ((0.2, 0.5), (0.3, 0.8)))
    assert sheet.masks is not None
    sheet.masks[1, rows, columns] = True
    lime = limeness(cell(drawn(sheet, tmp_path), 0, 1))
    top, bottom = (round(CELL * edge / mask_side) for edge in (rows.start, rows.stop))
    left, right = (round(CELL * edge / mask_side) for edge in (columns.start, columns.stop))
    for side in (lime[top - 3 : top + 5], lime[bottom - 5 : bottom + 3]):
        assert side[:, left + 9 : right - 9].max(0).min() > 0.4
    for side in (lime[:, left - 3 : left + 5], lime[:, right - 5 : right + 3]):
        assert side[top + 9 : bottom - 9].max(1).min() > 0.4
    inside = lime[top + 6 : bottom - 6, left + 6 : right - 6].copy()
    lime[top - 4 : bottom + 4, left - 4 : right + 4] = 0
    assert inside.max() == 0 and lime.max() == 0


def test_a_defect_of_one_pixel_is_seen(tmp_path: Path) -> None:
    sheet = random_sheet()
    assert sheet.masks is not None
    sheet.masks[2, 40, 200] = True
    assert limeness(cell(drawn(sheet, tmp_path), 0, 2)).max() > 0.3


def test_pictures_without_a_defect_are_as_they_are(tmp_path: Path) -> None:
    for sheet in (random_sheet(), random_sheet(mask_side=None)):
        pixels = drawn(sheet, tmp_path)
        for i in range(N):
            assert np.array_equal(cell(pixels, 0, i), sheet.pictures[i])


def test_a_map_is_its_colours_over_the_grey_picture(tmp_path: Path) -> None:
    sheet = random_sheet()
    sheet.heat[1, 100:130, 20:60] = 255
    pixels = drawn(sheet, tmp_path)
    for i in range(N):
        expected = 0.4 * sheet.pictures[i].mean(-1, keepdims=True) + 0.6 * turbo(sheet.heat[i] / 255)
        assert np.abs(cell(pixels, 1, i) - expected).max() <= 0.51
    redness = cell(pixels, 1, 1)[..., 0] - cell(pixels, 1, 1)[..., 2]
    hot = np.zeros((CELL, CELL), bool)
    hot[100:130, 20:60] = True
    assert redness[hot].min() > redness[~hot].max()


@pytest.mark.parametrize("side", [31, 64, 448, 513])
def test_pictures_of_any_size(side: int, tmp_path: Path) -> None:
    sheet = random_sheet(side)
    sheet.heat[0, : side // 2] = 255
    redness = np.diff(cell(drawn(sheet, tmp_path), 1, 0)[..., [2, 0]])[..., 0].mean(1)
    assert redness[: CELL // 2 - 8].min() > redness[CELL // 2 + 8 :].max() + 20


def test_long_captions_stay_over_their_pictures(tmp_path: Path) -> None:
    captions = [("a type of defect " * 9, "123.4  → task 12 " * 9)] * N
    pixels = drawn(random_sheet(captions=captions), tmp_path)
    above = pixels[len(pixels) - MARGIN - 2 * CELL - GAP - 36 :]
    for i in range(1, N):
        assert (above[:, column(i) - GAP : column(i)] == 255).all()
    assert (pixels[:, : MARGIN - 2] == 255).all() and (pixels[:, -MARGIN:] == 255).all()


@pytest.mark.parametrize("n", [1, 2, 6])
def test_a_title_stays_on_the_sheet(n: int, tmp_path: Path) -> None:
    pixels = drawn(random_sheet(title="name " * 50, n=n), tmp_path)
    assert (pixels[: -MARGIN - 2 * CELL - GAP, column(n) - GAP + 2 :] == 255).all()


@pytest.mark.parametrize(
    "name", ["Größe łódź", "Жук", "나사", "$x$ \\frac{", "a\nb\tc", "\U0001f600", "na\udcefve", "\x00", "<b>"]
)
def test_names_of_any_letters_are_drawn_as_something(name: str, tmp_path: Path) -> None:
    pixels = drawn(random_sheet(title=name, captions=[(name, name)] * N), tmp_path)
    assert (pixels[MARGIN : MARGIN + 26] < 128).sum() > 10
    caption = len(pixels) - MARGIN - 2 * CELL - GAP - 36
    assert (pixels[caption : caption + 17, column(1) : column(1) + CELL] < 128).sum() > 10


@given(st.floats(-1e30, 1e30), st.floats(0, 1e30))
@example(0.0, 0.0)
@example(0.0, 5e-324)
@example(0.0, 1e-300)
@example(1e30, 0.0)
@example(-1.5, 8.75)
@example(101.3, 1e-6)
def test_numbers_of_the_colour_bar(low: float, span: float) -> None:
    high = low + span
    marks = ticks(low, high)
    slack = 1e-9 * max(abs(low), abs(high))
    assert 1 <= len(marks) <= 7
    for value, text in marks:
        assert low - slack <= value <= high + slack
        assert len(text) <= 10 and math.isfinite(float(text))


def test_numbers_of_the_colour_bar_are_round() -> None:
    assert ticks(-1.5, 7.25) == [(0.0, "0"), (2.0, "2"), (4.0, "4"), (6.0, "6")]
    assert [text for _, text in ticks(100.02, 100.21)] == ["100.05", "100.10", "100.15", "100.20"]


def test_drawing_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, moleflow_fast.evaluation.drawing_child, moleflow_fast.evaluation.sheet as s; s.font(12)\n"
        "print({'torch', 'matplotlib', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{'PIL'}\n", "")
