"""Squares of pictures of any shape, and maps brought back from them."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_fast.data.data_error import DataError
from moleflow_fast.data.datasets import AnomalyImages, byte_transform
from moleflow_fast.data.framing import LONGEST, require_ordinary_shape, scaled
from moleflow_fast.data.layouts import Sample
from moleflow_fast.data.stitching import OfPictures, stitched
from moleflow_fast.data.tile_images import TileImages
from moleflow_fast.data.tiling import Tiling
from moleflow_fast.evaluation.metrics import pixel_metrics
from moleflow_fast.evaluation.picture_maps import joined
from moleflow_fast.evaluation.regions import defective_pixels, defective_pixels_of

SIDE = 32


def _shapes(count: int) -> list[tuple[int, int]]:
    draw = random.Random(7)
    odd = [(draw.randint(20, 90), draw.randint(20, 900)) for _ in range(count)]
    turned = [(h, w) for w, h in odd]
    return [*odd, *turned, (40, 40), (41, 40), (3000, 30), (40, 4000)]


@pytest.mark.parametrize("size", _shapes(12))
def test_squares_cover_every_pixel_and_overlap(size: tuple[int, int]) -> None:
    tiling = Tiling(size, SIDE)
    seen = np.zeros(tiling.length, int)
    for start in tiling.starts:
        seen[start : start + SIDE] += 1
    assert seen.min() >= 1
    assert tiling.starts[0] == 0 and tiling.starts[-1] + SIDE == tiling.length
    assert all(b - a <= 0.75 * SIDE + 1 for a, b in zip(tiling.starts, tiling.starts[1:], strict=False))


@pytest.mark.parametrize("patches", [4, 7, 8])
@pytest.mark.parametrize("size", _shapes(4))
def test_stitched_constants_stay_constant(size: tuple[int, int], patches: int) -> None:
    tiling = Tiling(size, SIDE)
    value = float(torch.rand(()) * 1000 - 500)
    whole = stitched(tiling, torch.full((len(tiling), patches, patches), value))
    assert whole.shape[0 if size[1] < size[0] else 1] == patches
    torch.testing.assert_close(whole, torch.full_like(whole, value))


@pytest.mark.parametrize("size", _shapes(4))
def test_a_spot_comes_back_where_it_was(size: tuple[int, int]) -> None:
    """Maps are means over patches of the squares themselves, so that stitching alone is looked at."""
    width, height = size
    patches = 8
    draw = np.random.default_rng(width * height)
    x, y = int(draw.integers(width)), int(draw.integers(height))
    picture = np.zeros((height, width, 3), np.uint8)
    radius = max(1, min(size) // 16)
    picture[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = 255
    squares = byte_transform(SIDE, SIDE, "tiles")(Image.fromarray(picture)).float().mean(1)  # (n, S, S)
    tiling = Tiling(size, SIDE)
    assert squares.shape == (len(tiling), SIDE, SIDE)
    step = SIDE // patches
    whole = stitched(tiling, squares.unflatten(2, (patches, step)).unflatten(1, (patches, step)).mean((2, 4)))
    row, column = np.unravel_index(int(whole.argmax()), whole.shape)
    patch = min(size) / patches  # pixels of the picture
    assert abs((row + 0.5) * height / whole.shape[0] - y) <= 1.5 * patch
    assert abs((column + 0.5) * width / whole.shape[1] - x) <= 1.5 * patch


def test_a_square_picture_is_its_one_square() -> None:
    maps = torch.randn(1, 7, 7)
    assert torch.equal(stitched(Tiling((90, 90), SIDE), maps), maps[0])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    crop, whole = (byte_transform(SIDE, SIDE, view)(picture) for view in ("crop", "whole"))
    assert torch.equal(crop, whole)
    assert torch.equal(crop[None], byte_transform(SIDE, SIDE, "tiles")(picture))


def test_items_are_the_squares_that_a_detector_cuts(tmp_path) -> None:
    draw = np.random.default_rng(1)
    sizes = [(100, 40), (40, 130), (40, 40)]
    samples = []
    for i, (width, height) in enumerate(sizes):
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        samples.append(Sample(tmp_path / f"{i}.png", None, i, "good", "bolt"))
    pictures = AnomalyImages(samples, False, img_size=SIDE, crp_size=SIDE, msk_size=SIDE, view="tiles")
    items = TileImages(pictures)
    cut = [byte_transform(SIDE, SIDE, "tiles")(Image.open(sample.path)) for sample in samples]
    read = np.stack([request.answer().arrays[0] for request in items.pictures])
    assert np.array_equal(read, torch.cat(cut).numpy())
    assert [sample.label for sample in items.samples] == [0] * len(cut[0]) + [1] * len(cut[1]) + [2]
    of = OfPictures(items.tilings)
    features = torch.randn(len(items), 5)
    assert torch.equal(of.means(features)[1], features[of.owners == 1].mean(0))
    assert of.squares([2, 0]) == [len(items) - 1, *range(len(cut[0]))]
    assert items.transform_key() != AnomalyImages(samples, False, img_size=SIDE, crp_size=SIDE).transform_key()
    image, *_ = items[1]
    assert image.shape == (3, SIDE, SIDE)


def test_pixel_metrics_of_several_shapes_are_those_of_one_canvas() -> None:
    """Regions weigh the same, and equal shapes give what a stack of them gives."""
    draw = torch.Generator().manual_seed(3)
    shapes = [(9, 30), (30, 9), (12, 12)]
    masks = [torch.rand(shape, generator=draw) > 0.8 for shape in shapes]
    maps = [torch.rand(shape, generator=draw) for shape in shapes]
    flat = defective_pixels_of(masks)
    assert torch.equal(flat.places, torch.cat([m.flatten() for m in masks]).nonzero().flatten())
    assert float(flat.weights.sum()) == pytest.approx(1)
    assert pixel_metrics(joined(maps), flat).aupro > 0
    same = torch.stack([masks[0], masks[0].flip(0)])
    scores = torch.rand(same.shape, generator=draw)
    assert pixel_metrics(joined(list(scores)), defective_pixels_of(list(same))) == pixel_metrics(
        scores, defective_pixels(same)
    )


def test_one_limit_on_the_shape_of_pictures() -> None:
    require_ordinary_shape((50000, 1000), "strip.png")
    with pytest.raises(DataError, match=rf"strip.png: 1 x {LONGEST + 1} .*{LONGEST} times"):
        require_ordinary_shape((1, LONGEST + 1), "strip.png")


def test_a_long_picture_is_few_small_squares() -> None:
    """50,000 x 1,000 pixels become a strip of 224 px: 67 squares of 150,528 bytes."""
    tiling = Tiling((50000, 1000), 224)
    assert scaled((50000, 1000), 224) == tiling.strip == (11200, 224)
    assert len(tiling) == 67
