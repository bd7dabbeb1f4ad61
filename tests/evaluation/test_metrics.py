"""Compiled ranking metrics and AUPRO against scikit-learn and scipy."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from moleflow_fast.evaluation.metrics import aupro, auroc, average_precision, best_f1, ranking_metrics

EXACT = 1e-12


def sample(n, positives, levels, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < positives).astype(np.uint8)
    labels[:2] = 0, 1
    scores = rng.normal(size=n) + labels
    if levels:
        scores = np.round(scores * levels) / levels
    return scores.astype(dtype), labels


def assert_as_sklearn(scores, labels):
    metrics = ranking_metrics(scores, labels)
    assert metrics.auroc == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)
    assert metrics.average_precision == pytest.approx(average_precision_score(labels, scores), abs=EXACT)
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert metrics.best_f1 == pytest.approx(f1.max(), abs=EXACT)
    called = scores >= np.asarray(metrics.best_f1_threshold, scores.dtype)
    hits = (called & (labels == 1)).sum()
    assert 2 * hits / (called.sum() + labels.sum()) == pytest.approx(metrics.best_f1, abs=EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [0, 1, 7], ids=["continuous", "heavy_ties", "ties"])
@pytest.mark.parametrize(("n", "positives"), [(2, 0.5), (3, 0.5), (1023, 0.02), (65_537, 0.3), (1_000_003, 0.01)])
def test_equal_to_scikit_learn(n, positives, levels, dtype):
    assert_as_sklearn(*sample(n, positives, levels, seed=n + levels, dtype=dtype))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.booleans()), min_size=2, max_size=60
    ).filter(lambda pairs: len({label for _, label in pairs}) == 2)
)
def test_any_finite_scores(pairs):
    scores = np.array([score for score, _ in pairs], dtype=np.float32)
    labels = np.array([label for _, label in pairs], dtype=np.uint8)
    assert_as_sklearn(scores + 0, labels)


def test_all_scores_equal():
    labels = np.array([0, 1, 1, 0, 1])
    metrics = ranking_metrics(np.full(5, 3.0), labels)
    assert metrics == pytest.approx((0.5, 0.6, 0.75, 3.0))


def test_zero_and_minus_zero_tie():
    assert auroc(np.array([0.0, -0.0], np.float32), np.array([0, 1])) == 0.5
    assert auroc(np.array([-0.0, 0.0], np.float32), np.array([0, 1])) == 0.5


@pytest.mark.parametrize("broken", [np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_broken_scores_rank_as_anomalous(broken, dtype):
    scores, labels = sample(5000, 0.2, 0, seed=4, dtype=dtype)
    shown, hidden = scores.copy(), scores.copy()
    shown[:50] = broken
    hidden[:50] = np.finfo(dtype).max
    assert ranking_metrics(shown, labels)[:3] == pytest.approx(ranking_metrics(hidden, labels)[:3], abs=EXACT)


def test_nan_and_inf_are_equally_anomalous():
    assert auroc(np.array([np.nan, np.inf]), np.array([0, 1])) == 0.5


def test_minus_inf_is_the_most_normal():
    assert auroc(np.array([-np.inf, -1e30]), np.array([0, 1])) == 1.0


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_has_no_figure(label):
    metrics = ranking_metrics(np.arange(4.0), np.full(4, label))
    assert all(np.isnan(metrics))
    assert np.isnan(auroc(np.array([]), np.array([])))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"scores \(3,\) and labels \(4,\)"):
        auroc(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="threshold a grey mask"):
        auroc(np.zeros(3), np.array([0, 1, 255]))
    with pytest.raises(ValueError, match="fpr_limit"):
        aupro(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), fpr_limit=0)
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        aupro(np.zeros((2, 2)), np.zeros((2, 2)))


def test_tensors_of_any_type_views_and_numpy_agree():
    scores, labels = sample(4096, 0.1, 0, seed=2)
    expected = ranking_metrics(scores, labels)
    wide = torch.from_numpy(np.stack([scores, -scores], 1))[:, 0]
    assert ranking_metrics(wide, torch.from_numpy(labels).bool()) == expected
    assert ranking_metrics(scores.reshape(64, 64), labels.reshape(64, 64)) == expected
    halves = torch.from_numpy(scores).bfloat16()
    assert auroc(halves, labels) == pytest.approx(roc_auc_score(labels, halves.double().numpy()), abs=EXACT)
    assert average_precision(scores, labels) == expected.average_precision
    assert best_f1(scores, labels) == (expected.best_f1, expected.best_f1_threshold)


def test_thread_count_changes_nothing():
    scores, labels = sample(300_000, 0.05, 50, seed=8)
    maps, masks = scores.reshape(3, 250, 400), labels.reshape(3, 250, 400)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = (*ranking_metrics(scores, labels), aupro(maps, masks))
        torch.set_num_threads(3)
        assert (*ranking_metrics(scores, labels), aupro(maps, masks)) == one
    finally:
        torch.set_num_threads(threads)


def aupro_oracle(maps, masks, limit):
    """Overlap of every region with the pixels above each threshold, one region after another."""
    fpr, _, thresholds = roc_curve(masks.ravel(), maps.ravel(), drop_intermediate=False)
    overlaps = []
    for scores, mask in zip(maps, masks, strict=True):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        for region in range(1, count + 1):
            inside = np.sort(scores[regions == region])
            overlaps.append(1 - np.searchsorted(inside, thresholds, side="left") / len(inside))
    pro = np.mean(overlaps, 0)
    end = np.interp(limit, fpr, pro)
    kept = fpr < limit
    return np.trapezoid(np.r_[pro[kept], end], np.r_[fpr[kept], limit]) / limit


def blobs(n, height, width, seed, levels=0):
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(n, height, width)), (0, 1.5, 1.5)) > 0.2
    masks[:, 0, 0], masks[0, -1, -1] = False, True
    maps = rng.normal(size=masks.shape) + masks
    return (np.round(maps * levels) / levels if levels else maps), masks.astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize(("shape", "levels"), [((1, 5, 7), 0), ((4, 31, 17), 3), ((3, 64, 80), 0)])
def test_aupro_equal_to_regions_one_by_one(shape, levels, limit, dtype):
    maps, masks = blobs(*shape, seed=shape[1], levels=levels)
    maps = maps.astype(dtype)
    assert aupro(maps, masks, limit) == pytest.approx(aupro_oracle(maps, masks, limit), abs=EXACT)


def test_diagonal_neighbours_are_one_region():
    mask = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0]]])
    maps = np.array([[[9.0, 1, 1], [1, 0, 1], [1, 1, 1]]])
    # One region of two pixels, one of them found before any normal pixel, the other after all of them.
    assert aupro(maps, mask, 0.3) == pytest.approx(0.5, abs=EXACT)


def test_perfect_and_undefined_aupro():
    _, masks = blobs(2, 20, 20, seed=1)
    assert aupro(masks.astype(float), masks) == pytest.approx(1.0, abs=EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(aupro(np.zeros((2, 3, 3)), np.zeros((2, 3, 3))))
        assert np.isnan(aupro(np.zeros((2, 3, 3)), np.ones((2, 3, 3))))


def test_broken_maps_find_the_defect_they_cover():
    maps, masks = blobs(2, 30, 30, seed=6)
    highest = np.where(masks == 1, 1e30, maps)
    broken = np.where(masks == 1, np.nan, maps)
    assert aupro(broken, masks) == pytest.approx(aupro(highest, masks), abs=EXACT) == pytest.approx(1.0)
