"""base-inc scenarios."""

import pytest

from moleflow_fast.config.scenario import split_into_tasks


@pytest.mark.parametrize(
    ("scenario", "sizes"),
    [("1-1", [1] * 15), ("14-1", [14, 1]), ("10-5", [10, 5]), ("3-3", [3] * 5), ("4-3", [4, 3, 3, 3, 2])],
)
def test_sizes_and_order(scenario: str, sizes: list[int]) -> None:
    classes = [f"class{i}" for i in range(15)]
    tasks = split_into_tasks(classes, scenario)
    assert [len(task) for task in tasks] == sizes
    assert sum(tasks, []) == classes


@pytest.mark.parametrize("scenario", ["", "1", "0-1", "1-0", "a-b", "1-1-1", "-1-1", "1 - 1"])
def test_what_is_no_scenario(scenario: str) -> None:
    with pytest.raises(ValueError, match="--cl_scenario must read base-inc"):
        split_into_tasks(["a", "b"], scenario)


def test_a_base_larger_than_the_data_set() -> None:
    with pytest.raises(ValueError, match="starts with 3 classes, but only 2"):
        split_into_tasks(["a", "b"], "3-1")
