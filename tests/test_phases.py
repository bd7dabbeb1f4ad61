"""Wall time by phase: exclusive, complete, and of the counting thread alone."""

import threading

import pytest

from moleflow_fast.system.phases import Phases, counting, each, phase, since_process_start


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_a_phase_in_another_counts_for_itself_and_all_add_up() -> None:
    clock = Clock()
    with counting(Phases(2.5, clock)) as phases:
        clock.passes(1.0)
        with phase("training"):
            clock.passes(4.0)
            with phase("checkpoints"):
                clock.passes(0.5)
            clock.passes(2.0)
    assert phases.seconds() == {"imports": 2.5, "training": 6.0, "checkpoints": 0.5, "rest": 1.0}
    assert sum(phases.seconds().values()) == 2.5 + clock.now - 100.0


def test_a_phase_that_fails_is_closed() -> None:
    clock = Clock()
    with counting(Phases(clock=clock)) as phases:
        with pytest.raises(OSError, match="full"), phase("cache"):
            clock.passes(1.0)
            raise OSError("full")
        clock.passes(3.0)
    assert phases.seconds() == {"cache": 1.0, "rest": 3.0}


def test_the_phase_that_is_still_open_counts_up_to_now() -> None:
    clock = Clock()
    phases = Phases(clock=clock)
    with phases.during("scoring"):
        clock.passes(1.5)
        assert phases.seconds() == {"scoring": 1.5}


def test_arriving_items_count_and_what_is_done_with_them_does_not() -> None:
    clock = Clock()

    def slow() -> object:
        for number in range(3):
            clock.passes(2.0)
            yield number
        clock.passes(0.25)

    with counting(Phases(clock=clock)) as phases:
        found = []
        for item in each("decoding", slow()):
            clock.passes(1.0)
            found.append(item)
    assert found == [0, 1, 2]
    assert phases.seconds() == {"decoding": 6.25, "rest": 3.0}


def test_other_threads_do_not_count() -> None:
    clock = Clock()

    def beside() -> None:
        with phase("decoding"):
            clock.passes(7.0)

    with counting(Phases(clock=clock)) as phases, phase("training"):
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
    assert phases.seconds() == {"training": 7.0}


def test_nothing_counts_where_nobody_counts_and_who_counts_goes_on() -> None:
    with phase("training"):
        pass
    with counting() as outer, counting() as inner:
        assert inner is outer
    with counting() as later:
        assert later is not outer


def test_an_unknown_phase_is_refused() -> None:
    with counting(), pytest.raises(ValueError, match="no phase 'trainig': one of imports, "), phase("trainig"):
        pass


def test_the_process_started_before_now() -> None:
    assert 0 < since_process_start() < 86_400
