"""The square that the model sees, against what the transform really shows it."""

import numpy as np
import pytest
from PIL import Image

from moleflow_fast.data.datasets import image_transform
from moleflow_fast.detector.view import FieldOfView


@pytest.mark.parametrize("shape", [(64, 64), (300, 100), (100, 300), (641, 480), (50, 33), (1, 1), (7, 1)])
def test_the_view_is_the_crop(shape: tuple[int, int]) -> None:
    width, height = shape
    size = 64
    ramps = np.stack(np.broadcast_arrays(np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None], 0.0), -1)
    seen = image_transform(size, size)(Image.fromarray(ramps.round().astype(np.uint8)))
    view = FieldOfView.of(width, height, size)
    rounding = max(shape) / size  # the long side is resized to whole pixels
    assert abs((view.right - view.left) - (view.bottom - view.top)) <= 1 + rounding
    assert min(view.left, view.top) == 0 and view.right <= width and view.bottom <= height
    if min(shape) < 30:
        return
    position = seen.numpy() * np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    position = position + np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    left, right = (float(position[0, 32, i]) * (width - 1) for i in (0, -1))
    top, bottom = (float(position[1, i, 32]) * (height - 1) for i in (0, -1))
    step = max(shape) / 64
    assert (view.left, view.right) == pytest.approx((left, right + 1), abs=step + 2)
    assert (view.top, view.bottom) == pytest.approx((top, bottom + 1), abs=step + 2)


def test_a_map_laid_over_its_picture() -> None:
    values = np.zeros((16, 16), np.float32)
    values[4:8, 8:12] = 1
    laid = FieldOfView.of(320, 160, 64).lay_over(values)
    assert laid.shape == (160, 320) and laid.dtype == np.float32
    assert np.isnan(laid[:, :80]).all() and np.isnan(laid[:, 240:]).all() and not np.isnan(laid[:, 80:240]).any()
    rows, columns = np.nonzero(laid > 0.5)
    assert (rows.min(), rows.max() + 1) == pytest.approx((40, 80), abs=1)
    assert (columns.min(), columns.max() + 1) == pytest.approx((160, 200), abs=1)


def test_the_view_in_a_smaller_copy() -> None:
    view = FieldOfView.of(3000, 1000, 64)
    small = view.on(300, 100)
    assert (small.left, small.top, small.right, small.bottom) == (100, 0, 200, 100)
    tiny = view.on(2, 1)
    assert tiny.right > tiny.left and tiny.bottom > tiny.top
