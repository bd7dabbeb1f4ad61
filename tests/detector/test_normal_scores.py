"""Thresholds between the scores of normal images."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from moleflow_fast.detector.normal_scores import CalibrationError, finite, median, room, threshold

SCORES = st.lists(st.floats(-1e6, 1e6, allow_nan=False, width=32), min_size=1, max_size=40)
RATES = st.floats(0.001, 0.9)


def high(values: list[float] | np.ndarray, **options: float) -> float:
    return threshold(values, left_out=False, **options)


@pytest.mark.parametrize("count", [1, 2, 18, 19, 20, 21, 38, 39, 40, 59, 200, 399])
def test_it_lies_between_scores_in_the_place_of_the_rate(count: int) -> None:
    scores = np.sort(np.random.default_rng(count).gamma(2, 10, count))
    found = high(scores)
    place = min(0.95 * (count + 1), count)
    above = count - int(np.floor(place + 1e-9))
    assert (scores > found).sum() == above
    assert np.abs(scores - found).min() >= room(found) * 0.99
    if above:
        low, next_one = scores[count - above - 1], scores[count - above]
        share = (found - low) / (next_one - low)
        assert share == pytest.approx(np.clip(place - np.floor(place + 1e-9), 0.1, 0.9), abs=1e-6)


@given(SCORES, RATES, st.booleans(), st.floats(0, 10))
def test_no_score_is_within_rounding_of_it(values: list[float], rate: float, left_out: bool, floor: float) -> None:
    found = threshold(values, left_out, floor, 1 - rate)
    nearest = min(values, key=lambda v: abs(v - found))
    assert abs(nearest - found) >= 0.99 * room(nearest)
    assert found >= median(values) + floor - room(found) * 1.01 or len(set(values)) > 1
    assert threshold(values, left_out, floor, 1 - rate / 2) >= found  # fewer false alarms, a higher threshold


def test_scores_that_are_one_within_rounding_are_passed_together() -> None:
    twins = [1.0, 2.0, 3.0, *(100 + 1e-5 * i for i in range(18))]  # 21, the highest 18 closer than rounding
    assert high(twins) > max(twins) + room(100) * 0.99
    assert high([5.0] * 30) == pytest.approx(5 + room(5))
    pair = [*range(100), 95.0001]  # the place of 1 in 20 lies between two that are one
    assert high(pair) > 95.0001


def test_never_below_a_grey_level_over_the_median() -> None:
    scores = np.linspace(10, 11, 100)
    assert high(scores, grey_level=0.2) == high(scores)
    assert high(scores, grey_level=7.0) == pytest.approx(10.5 + 7)
    assert high([4.0] * 10, grey_level=3.0) == pytest.approx(7)


@pytest.mark.parametrize("count", [20, 39, 75, 200])
@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_the_rate_is_kept(count: int, rate: float) -> None:
    generator = np.random.default_rng(count)
    passed = []
    for _ in range(400):
        known, new = generator.gamma(2, 1, count), generator.gamma(2, 1, 400)
        passed.append((new > high(known, quantile=1 - rate)).mean())
    assert np.mean(passed) == pytest.approx(rate, abs=0.01)


def test_rates_that_so_few_images_cannot_tell() -> None:
    scores = np.arange(1.0, 100.0)  # 99: one in a hundred is the highest
    assert high(scores, quantile=0.99) == high(scores, quantile=0.999) == pytest.approx(99.1)
    assert 98 < high(scores, quantile=0.985) < 99


@pytest.mark.parametrize("count", [3, 6, 10, 20, 75, 200])
def test_of_scores_that_were_left_out_the_highest_decides_the_less_the_fewer_there_are(count: int) -> None:
    scores = np.random.default_rng(count).normal(300, 40, count)
    deviation = scores.std(ddof=1) * math.sqrt(1 + 1 / count)
    smooth = scores.mean() + student.ppf(0.95, count - 1) * deviation
    share = min(1, 10 / count)
    plain = np.quantile(scores, 0.95, method="weibull")
    expected = share * smooth + (1 - share) * plain
    gap = np.diff(np.sort(scores)).max()
    assert threshold(scores, left_out=True) == pytest.approx(expected, abs=0.04 * deviation + 0.1 * gap)


def test_scores_that_were_left_out_are_few_equal_or_not_finite() -> None:
    assert threshold([4.0, 5.0], left_out=True) == high([4.0, 5.0])
    assert threshold([5.0] * 7, left_out=True) == high([5.0] * 7)
    odd = [1.0, 2.0, 3.0, math.inf, math.nan]
    assert threshold(odd, left_out=True) == threshold(odd[:3], left_out=True)
    assert finite(odd[::-1]).tolist() == [1, 2, 3]
    with pytest.raises(CalibrationError, match="no normal image"):
        threshold([math.nan], left_out=True)
