"""Every way of the flow's products compiles as it has to, for GPUs that are not here; with --full in every tile."""

from pathlib import Path
from typing import Any

import pytest
from compiled_apart import INSTRUCTION, SHARED, SPILLED, compiled_once

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("compiling_ways.py")


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return compiled_once(SCRIPT, request)


def name(way: dict[str, Any]) -> str:
    return f"{way['operation']}, {way['precision']}, {way['way']}, {way['what']}, sm_{way['arch']}"


def products(compiled: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that multiply in the kernel."""
    return [way for way in compiled if way["foreseen_bytes"] is not None]


def test_nothing_spills(compiled: list[dict[str, Any]], pytestconfig: pytest.Config) -> None:
    spilled = {name(way): way["spill_bytes"] for way in compiled if way["spill_bytes"] > SPILLED[way["arch"]]}
    assert len(compiled) > (100 if pytestconfig.getoption("--full") else 30) and spilled == {}


def test_shared_memory_fits_and_is_foreseen(compiled: list[dict[str, Any]]) -> None:
    """Never more than `shared_bytes` says; on tensor cores of sm_90 no more than 1 KiB less."""
    assert {name(way) for way in compiled if way["shared_bytes"] > SHARED[way["arch"]]} == set()
    assert {name(way) for way in products(compiled) if way["shared_bytes"] > way["foreseen_bytes"]} == set()
    exact = [way for way in products(compiled) if way["arch"] == 90 and way["precision"] != "fp32"]
    assert exact and {name(way) for way in exact if way["foreseen_bytes"] - way["shared_bytes"] > 1024} == set()


def test_products_run_on_tensor_cores(compiled: list[dict[str, Any]]) -> None:
    """But those of fp32, which are exact; and none waits for each instruction."""
    for way in products(compiled):
        expected = None if way["precision"] == "fp32" else INSTRUCTION[way["arch"]]
        assert way["instruction"] == expected, name(way)
        assert not way["serialized"], name(way)


def test_pointers_copy_16_bytes_at_a_time(compiled: list[dict[str, Any]]) -> None:
    """Of tf32 operands channel-major tokens are transposed on their way, 4 bytes at a time: there the library runs."""
    ways = [way for way in products(compiled) if way["way"].startswith("pointers") and way["precision"] != "tf32"]
    assert ways and {name(way) for way in ways if way["copy_bytes"] != [16] or way["narrow_loads"]} == set()


def test_descriptors_need_no_copies_by_threads(compiled: list[dict[str, Any]]) -> None:
    ways = [way for way in compiled if way["way"].startswith("descriptors")]
    assert ways and {name(way) for way in ways if way["copy_bytes"] or way["narrow_loads"]} == set()
