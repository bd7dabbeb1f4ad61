"""Figures of a ranking on a device, against those of the compiled part: on a GPU where there is one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_fast.evaluation.device_ranking import ranked_figures
from moleflow_fast.evaluation.metrics import RankingMetrics, ranking_metrics

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXACT = 1e-12


def on_device(scores, labels) -> RankingMetrics:
    values = torch.as_tensor(np.asarray(scores), device=DEVICE)
    return RankingMetrics(*ranked_figures(values, torch.as_tensor(np.asarray(labels), device=DEVICE)))


def assert_as_compiled(scores, labels) -> None:
    scores, labels = np.asarray(scores), np.asarray(labels)
    actual, expected = on_device(scores, labels), ranking_metrics(scores, labels)
    # Counts are exact on both sides; only the sum of precisions is rounded in another order.
    assert actual.average_precision == pytest.approx(expected.average_precision, abs=EXACT)
    assert actual._replace(average_precision=0) == expected._replace(average_precision=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [0, 1, 7])
@pytest.mark.parametrize(("n", "positives"), [(2, 0.5), (3, 0.5), (1023, 0.02), (65_537, 0.3)])
def test_equal_to_the_compiled_part(n, positives, levels, dtype):
    rng = np.random.default_rng(n + levels)
    labels = rng.random(n) < positives
    labels[:2] = False, True
    scores = rng.normal(size=n) + labels
    assert_as_compiled((np.round(scores * levels) / levels if levels else scores).astype(dtype), labels)


@settings(deadline=None, max_examples=200)
@given(
    pairs=st.lists(st.tuples(st.floats(width=32), st.booleans()), min_size=2, max_size=40).filter(
        lambda pairs: len({label for _, label in pairs}) == 2
    ),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_any_scores(pairs, dtype):
    assert_as_compiled(np.array([s for s, _ in pairs], dtype), np.array([label for _, label in pairs]))


def test_all_scores_equal():
    labels = [0, 1, 1, 0, 1]
    assert on_device(np.full(5, 3.0), labels) == pytest.approx((0.5, 0.6, 0.75, 3.0))
    assert_as_compiled(np.full(5, -0.0), labels)


@pytest.mark.parametrize("broken", [np.inf, np.nan, -np.nan, -np.inf])
def test_broken_scores(broken):
    scores = np.array([0.5, broken, broken, -2.0, 3.4e38, broken, -3.4e38], np.float32)
    assert_as_compiled(scores, [0, 1, 0, 1, 1, 1, 0])


def test_nan_and_inf_are_equally_anomalous_and_zeros_tie():
    assert on_device([np.nan, np.inf], [0, 1]).auroc == 0.5
    assert on_device([0.0, -0.0], [0, 1]).auroc == on_device([-0.0, 0.0], [0, 1]).auroc == 0.5
    assert np.signbit(on_device([-0.0, -1.0], [1, 0]).best_f1_threshold) == 0


def test_the_highest_of_equally_good_thresholds():
    assert_as_compiled([4.0, 3.0, 2.0, 1.0], [1, 0, 0, 1])  # F1 is 2/3 at 4 and at 1
    assert on_device([4.0, 3.0, 2.0, 1.0], [1, 0, 0, 1]).best_f1_threshold == 4.0


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_has_no_figure(label):
    assert all(np.isnan(on_device(np.arange(4.0), np.full(4, label))))
    assert all(np.isnan(on_device(np.array([]), np.array([]))))


@pytest.mark.parametrize("labels", [[0, 1, 255], [0, 1, 0.5], [0, 1, -1], [0, 1, np.nan]])
def test_bad_labels_are_named(labels):
    with pytest.raises(ValueError, match="threshold a grey mask"):
        on_device(np.zeros(3), labels)


def test_counts_of_many_pairs_are_exact():
    """Beyond what fp32, and counts of 32 bits, can hold."""
    labels = np.arange(400_001) % 2
    assert_as_compiled((labels * 0.25 + np.arange(labels.size) % 5).astype(np.float32), labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_scores_on_a_gpu_are_ranked_there(monkeypatch):
    from moleflow_fast.evaluation import metrics

    scores, labels = torch.randn(3, 8, 9), torch.rand(3, 8, 9) < 0.2
    expected = ranking_metrics(scores, labels)
    monkeypatch.setattr(metrics, "_scores", None)  # the way to the host
    for dtype in (torch.float32, torch.float64):
        for truth in (labels, labels.cuda(), labels.numpy(), labels.tolist()):
            assert ranking_metrics(scores.to(dtype).cuda(), truth) == pytest.approx(expected, abs=EXACT)
    with pytest.raises(ValueError, match=r"scores \(3, 8, 9\) and labels \(4,\)"):
        ranking_metrics(scores.cuda(), torch.zeros(4))
