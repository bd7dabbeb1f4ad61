"""Forgetting measure and backward transfer on histories worked out by hand."""

import math

import pytest

from moleflow_fast.evaluation.forgetting import forgetting


def test_three_tasks() -> None:
    result = forgetting([[0.9], [0.95, 0.8], [0.7, 0.85, 0.6]])
    assert result.measure == pytest.approx([0.25, -0.05])
    assert result.transfer == pytest.approx([-0.2, 0.05])
    assert result.mean_measure == pytest.approx(0.1)
    assert result.bwt == pytest.approx(-0.075)


def test_a_single_task_forgets_nothing_that_could_be_measured() -> None:
    result = forgetting([[0.9]])
    assert result.measure == []
    assert math.isnan(result.bwt)


def test_evaluations_that_were_not_made() -> None:
    result = forgetting([[], [0.95, 0.8], [0.7, 0.85, 0.6]])
    assert result.measure == pytest.approx([0.25, -0.05])
    assert math.isnan(result.transfer[0])
    assert result.bwt == pytest.approx(0.05)
    assert math.isnan(forgetting([[], [], [0.7, 0.8, 0.9]]).mean_measure)
