"""What is seen on the routing confusion matrix, by pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow_fast.evaluation.confusion import CELL, MARGIN, draw_confusion


def drawn(counts: list[list[int]], names: list[str], folder: Path) -> tuple[np.ndarray, int]:
    """The pixels, and where the matrix begins from the left."""
    draw_confusion(folder / "c.png", np.array(counts), [[name] for name in names])
    with Image.open(folder / "c.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return pixels, pixels.shape[1] - MARGIN - CELL * len(counts)


def cell(pixels: np.ndarray, left: int, row: int, column: int) -> np.ndarray:
    y, x = MARGIN + row * CELL, left + column * CELL
    return pixels[y + 2 : y + CELL - 2, x + 2 : x + CELL - 2]


def test_shares_are_blue_and_counts_are_written(tmp_path: Path) -> None:
    pixels, left = drawn([[0, 0, 4], [1, 3, 0], [0, 0, 0]], ["a", "b", "c"], tmp_path)
    corners = [[tuple(cell(pixels, left, row, column)[0, 0]) for column in range(3)] for row in range(3)]
    nothing, quarter, most, everything = (247, 251, 255), (198, 219, 239), (33, 113, 181), (8, 48, 107)
    assert corners == [[nothing, nothing, everything], [quarter, most, nothing], [nothing] * 3]
    cells = [[cell(pixels, left, row, column).reshape(-1, 3) for column in range(3)] for row in range(3)]
    written = [[len(np.unique(one, axis=0)) > 1 for one in row] for row in cells]
    assert written == [[False, False, True], [True, True, False], [False] * 3]
    assert cells[0][2].min(-1).max() == 255 and cells[1][0].max(-1).min() == 0  # white on dark, black on light


def test_names_are_on_both_axes(tmp_path: Path) -> None:
    counts = [[2, 0], [0, 2]]
    pixels, left = drawn(counts, ["wood", "pill"], tmp_path)
    others, _ = drawn(counts, ["wood", "tile"], tmp_path)
    assert pixels.shape == others.shape
    changed = (pixels != others).any(-1)
    rows, below = changed[: MARGIN + 2 * CELL, :left], changed[MARGIN + 2 * CELL + 1 :, left:]
    assert rows[: MARGIN + CELL].sum() == 0 and rows[MARGIN + CELL :].sum() > 20
    assert below[:, : CELL - 10].sum() == 0 and below[:, CELL - 10 :].sum() > 20


@pytest.mark.parametrize("tasks", [1, 2, 30])
def test_long_and_odd_names_stay_on_the_picture(tasks: int, tmp_path: Path) -> None:
    name = "łódź Жук 나사 $x$\n\udcef " * 9
    pixels, left = drawn(np.eye(tasks, dtype=int).tolist(), [name] * tasks, tmp_path)
    edges = [pixels[:6], pixels[-6:], pixels[:, :4], pixels[:, -6:]]
    assert all((edge == 255).all() for edge in edges) and 100 < left < 400
