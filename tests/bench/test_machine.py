"""Rates behind every "% of floor"."""

from dataclasses import replace

from machine import Machine, faster


def test_the_higher_of_each_rate() -> None:
    words = {"cpu": "Some CPU", "threads": 2, "torch": "2.11.0", "python": "3.12.3", "date": "2026-01-02"}
    one = Machine(**words, gflops={"fp32": {"batch": 180.0, "image": 150.0}}, copy_gigabytes_per_s=20.0)
    other = replace(one, gflops={"fp32": {"batch": 170.0, "image": 200.0}}, copy_gigabytes_per_s=30.0)
    best = faster(one, other)
    assert best.gflops == {"fp32": {"batch": 180.0, "image": 200.0}} and best.copy_gigabytes_per_s == 30.0
    assert best.cpu == one.cpu and one.gflops["fp32"]["image"] == 150.0
