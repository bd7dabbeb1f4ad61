"""Damaged files of every kind give a result or a clear error: some here, as many as wanted with fuzz.py."""

import pytest
from faults.fuzz import TARGETS, Hang, bounded, fuzz

CASES = 45


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@pytest.mark.parametrize("target", TARGETS)
def test_a_result_or_a_clear_error(target: str) -> None:
    counts = fuzz(target, CASES, start=None)
    assert counts.total() >= CASES * 0.8 and counts["refused"] > 0


def test_memory_and_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.fuzz.SECONDS", 1)
    with pytest.raises(MemoryError), bounded():
        bytes(3 << 30)
    with pytest.raises(Hang), bounded():
        while True:
            pass
