"""All figures of pixels from one sort, compiled and on a device, against every threshold looked at one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from moleflow_fast.evaluation.device_ranking import pixel_figures
from moleflow_fast.evaluation.metrics import PixelMetrics, aupro, pixel_metrics, ranking_metrics
from moleflow_fast.evaluation.regions import defective_pixels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXACT = 1e-12


def on_device(maps, defects, limit=0.3) -> PixelMetrics:
    scores, *rest = (torch.as_tensor(x, device=DEVICE) for x in (maps, defects.places, defects.weights))
    return PixelMetrics(*pixel_figures(scores.flatten(), *rest, limit))


WAYS = pytest.mark.parametrize("way", [pixel_metrics, on_device])


def oracle(maps, masks, limit) -> PixelMetrics:
    scores = np.where(np.isnan(maps), np.inf, maps)
    thresholds = np.unique(scores)[::-1]
    called = np.stack([scores >= t for t in thresholds])
    truth = masks == 1
    tp, fp = (called & truth).sum((1, 2, 3)), (called & ~truth).sum((1, 2, 3))
    positives, negatives = truth.sum(), (~truth).sum()
    tpr, fpr = np.r_[0, tp / positives], np.r_[0, fp / negatives]
    f1 = 2 * tp / (positives + tp + fp)
    overlaps = []
    for i, mask in enumerate(masks):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        overlaps += [called[:, i, regions == r].mean(1) for r in range(1, count + 1)]
    overlap = np.r_[0, np.mean(overlaps, 0)]
    # The curve jumps where only defects are called: below the limit whole trapezoids, and the one that crosses it.
    area = 0.0
    for i in range(len(thresholds)):
        end = min(fpr[i + 1], limit)
        if fpr[i] < end:
            at_end = overlap[i] + (overlap[i + 1] - overlap[i]) * (end - fpr[i]) / (fpr[i + 1] - fpr[i])
            area += (end - fpr[i]) * (overlap[i] + at_end) / 2
    return PixelMetrics(
        np.trapezoid(tpr, fpr), (np.diff(tpr) * tp / (tp + fp)).sum(), f1.max(), thresholds[f1.argmax()], area / limit
    )


def assert_equal(actual, expected) -> None:
    # F1 of two thresholds may be equal but for rounding in the oracle alone, so which is best is held elsewhere.
    assert actual._replace(best_f1_threshold=0) == pytest.approx(expected._replace(best_f1_threshold=0), abs=EXACT)


def blobs(shape, seed, spread=1.2):
    """Masks with several regions an image, one of a single pixel, the last image normal; maps that hardly see them."""
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=shape), (0, spread, spread)) > 0.25
    masks[-1] = False
    masks[0, :2, :2] = False
    masks[0, :3, :3] = np.eye(3) == 2
    masks[0, 0, 0] = True
    return rng.normal(size=shape) + 0.5 * masks, masks


@WAYS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [1e-4, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [0, 1, 4], ids=["continuous", "heavy_ties", "ties"])
@pytest.mark.parametrize("shape", [(2, 5, 7), (4, 9, 13), (3, 17, 11)])
def test_equal_to_every_threshold_one_by_one(shape, levels, limit, dtype, way):
    maps, masks = blobs(shape, seed=sum(shape) + levels)
    maps = (np.round(maps * levels) / levels if levels else maps).astype(dtype)
    assert_equal(way(maps, defective_pixels(masks), limit), oracle(maps, masks, limit))


@WAYS
@settings(deadline=None, max_examples=150)
@given(
    pixels=st.lists(
        st.tuples(st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0, np.inf, np.nan]), st.booleans()),
        min_size=24, max_size=24,
    ).filter(lambda pixels: len({defective for _, defective in pixels}) == 2),
    limit=st.sampled_from([1e-3, 0.1, 0.25, 0.3, 0.5, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_any_tie_and_any_mask(pixels, limit, dtype, way):
    maps = np.array([score for score, _ in pixels], dtype).reshape(2, 3, 4)
    masks = np.array([defective for _, defective in pixels]).reshape(2, 3, 4)
    assert_equal(way(maps, defective_pixels(masks), limit), oracle(maps, masks, limit))


@WAYS
def test_the_figures_of_one_metric_each(way):
    maps, masks = blobs((5, 40, 30), seed=3)
    maps = np.round(maps.astype(np.float32), 1)
    actual, expected = way(maps, defective_pixels(masks), 0.2), (*ranking_metrics(maps, masks), aupro(maps, masks, 0.2))
    assert actual == pytest.approx(expected, abs=EXACT)
    assert actual.best_f1_threshold == expected[3]


@WAYS
def test_a_constant_map(way):
    _, masks = blobs((3, 8, 9), seed=5)
    actual = way(np.full(masks.shape, -0.0), defective_pixels(masks))
    share = masks.mean()
    expected = (0.5, share, 2 * share / (1 + share), 0.0, 0.15)  # overlap and false positives rise together
    assert actual == pytest.approx(expected, abs=EXACT)


@WAYS
def test_a_limit_at_a_threshold_to_the_last_bit(way):
    """Of four normal pixels one is called, so the rate is the limit; defects that come next no longer count."""
    maps, masks = np.array([[[4.0, 3, 2, 1, 0, -1]]]), np.array([[[0, 1, 1, 0, 0, 0]]])
    assert way(maps, defective_pixels(masks), 0.25).aupro == 0
    assert way(maps, defective_pixels(masks), 0.5).aupro == pytest.approx(0.5, abs=EXACT)


@WAYS
@pytest.mark.parametrize("value", [0, 1])
def test_a_single_class_has_no_figure(value, way):
    maps, _ = blobs((2, 4, 5), seed=1)
    assert all(np.isnan(way(maps, defective_pixels(np.full(maps.shape, value)))))


def test_the_same_bits_whatever_the_threads():
    maps, masks = blobs((7, 211, 199), seed=2)  # enough for several threads
    maps = maps.astype(np.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(pixel_metrics(maps, defective_pixels(masks)))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]
    assert_equal(on_device(maps, defective_pixels(masks)), found[0])


def test_weights_are_of_regions():
    masks = np.zeros((3, 4, 5), int)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 2, 0] = 1  # joined at corners
    masks[0, 0, 4] = 1
    masks[2, 3] = 1
    defects = defective_pixels(torch.from_numpy(masks))
    assert defects.shape == masks.shape
    assert defects.places.tolist() == np.flatnonzero(masks).tolist()
    sizes = [3, 1, 3, 3, *[5] * 5]
    assert defects.weights.tolist() == [1 / (size * 3) for size in sizes]


def test_bad_input_is_named():
    defects = defective_pixels(np.eye(3)[None])
    with pytest.raises(ValueError, match=r"maps \(1, 3, 4\) and masks \(1, 3, 3\)"):
        pixel_metrics(np.zeros((1, 3, 4)), defects)
    with pytest.raises(ValueError, match="fpr_limit"):
        pixel_metrics(np.zeros((1, 3, 3)), defects, fpr_limit=1.5)
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        defective_pixels(np.eye(3))
    with pytest.raises(ValueError, match="threshold a grey mask"):
        defective_pixels(np.full((1, 2, 2), 255))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_maps_on_a_gpu_are_ranked_there_to_the_same_bits(monkeypatch):
    from moleflow_fast.evaluation import metrics

    maps, masks = blobs((6, 64, 61), seed=9)
    defects = defective_pixels(masks)
    expected = pixel_metrics(maps.astype(np.float32), defects)
    monkeypatch.setattr(metrics, "_scores", None)  # the way to the host
    on_gpu = torch.from_numpy(maps).float().cuda()
    actual = pixel_metrics(on_gpu, defects)
    assert actual == pytest.approx(expected, abs=EXACT)
    assert pixel_metrics(on_gpu, defects) == actual
