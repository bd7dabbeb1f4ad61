"""Differences paired over seeds and classes, and when they are noise."""

import numpy as np
import pytest

from moleflow_fast.report.statistics import Difference, Values, deviation, mean, paired_difference

SEEDS, CLASSES = 4, 8


def values(array: np.ndarray) -> Values:
    return {seed: {f"class{i}": float(v) for i, v in enumerate(row)} for seed, row in enumerate(array)}


def noise(seed: int, scale: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (SEEDS, CLASSES))


def compared(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    found = paired_difference(values(ours), values(theirs))
    assert found is not None and found.low is not None and found.high is not None
    return found


def test_equal_runs_differ_by_nothing() -> None:
    same = noise(0, 0.1)
    found = compared(same, same)
    assert (found.value, found.low, found.high, found.verdict) == (0, 0, 0, "noise")


@pytest.mark.parametrize(("shift", "verdict"), [(0.02, "higher"), (-0.02, "lower")])
def test_a_known_shift_is_covered_and_told(shift: float, verdict: str) -> None:
    theirs = noise(1, 0.3)
    found = compared(theirs + shift + noise(2, 0.01), theirs)
    assert found.low is not None and found.high is not None
    assert found.low < shift < found.high and found.verdict == verdict
    assert (found.seeds, found.classes) == (SEEDS, CLASSES)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = [
        found.low <= 0.01 <= found.high
        for i in range(60)
        for found in [compared(0.01 + noise(i, 0.01), np.zeros((SEEDS, CLASSES)))]
        if found.low is not None and found.high is not None
    ]
    assert 0.8 <= np.mean(covered) <= 1


def test_noise_is_no_winner() -> None:
    assert compared(noise(3, 0.01), noise(4, 0.01)).verdict == "noise"


def test_pairing_takes_out_what_both_share() -> None:
    shared = np.arange(SEEDS)[:, None] + np.linspace(0, 3, CLASSES)
    paired = compared(shared + 0.01 + noise(5, 0.001), shared)
    shuffled = compared((shared + 0.01)[::-1], shared)
    assert paired.verdict == "higher" and shuffled.verdict == "noise"


def test_an_effect_of_one_seed_alone_is_noise() -> None:
    one_seed = np.zeros((SEEDS, CLASSES))
    one_seed[0] = 0.1
    spread = np.zeros((SEEDS, CLASSES))
    spread.flat[::SEEDS] = 0.1
    assert compared(one_seed, np.zeros_like(one_seed)).verdict == "noise"
    assert compared(spread, np.zeros_like(spread)).verdict == "higher"  # as much, in every seed


def test_an_effect_on_one_class_alone_is_noise() -> None:
    one_class = np.zeros((2, CLASSES))
    one_class[:, 3] = 0.1
    assert compared(one_class, np.zeros_like(one_class)).verdict == "noise"


def test_only_what_both_have_counts() -> None:
    ours = {0: {"a": 1.0, "b": 5.0}, 1: {"a": 2.0, "b": float("nan")}, 7: {"a": 100.0}}
    theirs = {0: {"a": 0.5, "b": 0.0}, 1: {"a": 1.5, "b": 1.0, "c": 9.0}}
    assert paired_difference(ours, theirs) == Difference(0.5, None, None, 2, 1)
    assert paired_difference({0: {"a": 1.0}}, {1: {"a": 1.0}}) is None
    assert paired_difference({0: {"a": 1.0}}, {0: {"b": 1.0}}) is None


def test_too_few_differences_have_no_interval() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert compared(ones, zeros).verdict == "higher"
    few = paired_difference(values(ones[:, :2]), values(zeros[:, :2]))
    assert few is not None and few.value == 1 and few.verdict == "no_interval"


def test_one_seed_has_no_interval_however_many_classes() -> None:
    one = paired_difference(values(np.ones((1, 99))), values(np.zeros((1, 99))))
    assert one == Difference(1.0, None, None, 1, 99)


def test_mean_and_deviation() -> None:
    assert mean([1.0, float("nan"), 2.0]) == 1.5 and deviation([1.0, 2.0, 3.0]) == 1.0
    assert np.isnan(mean([])) and np.isnan(deviation([1.0]))
