"""Which way is chosen, and from which table."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moleflow_fast.kernels import ways
from moleflow_fast.kernels.candidates import BY_IMAGE, PRODUCTS, candidates
from moleflow_fast.kernels.operands import Shape
from moleflow_fast.kernels.products import sum_tiles
from moleflow_fast.kernels.tiles import LOGDET_ROWS, Tile, default_tile, launchable, shared_bytes
from moleflow_fast.kernels.ways import choose, current_table, find_table, precision_name, use_table
from moleflow_fast.kernels.ways_table import (
    Entry,
    Table,
    Timing,
    Way,
    packaged,
    table_of_one,
    tuned_file,
    write_table,
)

CPU = torch.device("cpu")
SM_90 = 227 << 10
SMALL, LARGE = Shape(2, 64, 128, 1000), Shape(2, 640, 1280, 1000)
WIDE, NARROW = Way("pointers", Tile(128, 128, 64, 8, 3)), Way("pointers", Tile(64, 128, 64, 4, 3))
LIBRARY = Way("library")


def table(**device: object) -> Table:
    """Small products are fastest narrow, large ones wide; where those cannot run, the library is."""

    def entry(shape: Shape, *order: Way) -> Entry:
        timings = (Timing(way, float(place), measured=True) for place, way in enumerate(order, start=1))
        return Entry("relu_product", "bf16", shape, tuple(timings))

    entries = (entry(SMALL, NARROW, LIBRARY), entry(LARGE, WIDE, LIBRARY))
    return replace(Table("a GPU", (9, 0), "a test", entries), **device)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def looked_for_anew() -> Iterator[None]:
    find_table.cache_clear()
    yield
    find_table.cache_clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLEFLOW_CACHE", str(tmp_path))
    return tmp_path


def store(found: Table) -> None:
    file = tuned_file(found.device)
    file.parent.mkdir(parents=True)
    write_table(file, found)


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        (SMALL, NARROW),
        (LARGE, WIDE),
        (Shape(1, 64, 128, 1001), NARROW),  # near in size, whatever it is made of
        (Shape(2, 64, 128, 9_900), NARROW),  # 10 times as many multiply-adds as the small one, a tenth of the large
        (Shape(2, 64, 128, 10_100), WIDE),
        (Shape(2, 6400, 12800, 1000), WIDE),
        (Shape(1, 1, 1, 1), NARROW),
    ],
)
def test_exact_shape_else_the_nearest(shape: Shape, way: Way) -> None:
    with use_table(table()):
        assert choose("relu_product", shape, "bf16", CPU) == way


def test_next_best_where_the_best_does_not_take_the_operands() -> None:
    with use_table(table()):
        assert choose("relu_product", LARGE, "bf16", CPU, lambda way: way.name == "library") == LIBRARY


@pytest.mark.parametrize(
    ("operation", "precision", "name"),
    [
        ("coupling_product", "bf16", "pointers"),
        ("relu_product", "fp32", "pointers"),
        ("relu_product", "tf32", "library"),
        ("lora_gradients", "fp32", "factored"),
        ("lora_gradients", "bf16", "dense"),
        ("lora_gradients", "tf32", "dense"),
    ],
)
def test_defaults_where_nothing_is_known(operation: str, precision: str, name: str) -> None:
    with use_table(table()):
        assert choose(operation, LARGE, precision, CPU).name == name


def test_several_tasks_run_through_pointers_without_a_table() -> None:
    """The library, which tf32 defaults to, does not take them."""
    way = choose("relu_product by image", LARGE, "tf32", CPU, lambda way: way.name != "library")
    assert way == Way("pointers", default_tile("relu_product", 4))


def test_a_tile_that_cannot_be_launched_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "shared_limit", lambda device: 99 << 10)  # sm_86 and sm_89
    with use_table(table_of_one("relu_product", Way("descriptors", Tile(128, 256, 64, 8, 3)))):
        assert choose("relu_product", LARGE, "bf16", CPU) == Way("pointers", default_tile("relu_product", 2))


@pytest.mark.parametrize(
    ("way", "tile", "itemsize", "fits"),
    [
        ("pointers", Tile(128, 256, 64, 8, 4), 4, False),  # died on an H200
        ("pointers", Tile(256, 128, 64, 8, 3), 4, False),  # so did this
        ("pointers", Tile(128, 256, 64, 8, 4), 2, True),
        ("descriptors", Tile(128, 256, 64, 8, 3), 2, True),
        ("descriptors", Tile(128, 256, 64, 8, 4), 2, False),
    ],
)
def test_shared_memory_of_sm_90(way: str, tile: Tile, itemsize: int, fits: bool) -> None:
    assert launchable(way, "relu_product", tile, itemsize, SM_90) is fits


def test_default_tiles_fit_every_gpu() -> None:
    for operation in PRODUCTS:
        for itemsize in (2, 4):
            assert shared_bytes("pointers", operation, default_tile(operation, itemsize), itemsize) <= 99 << 10


@pytest.mark.parametrize("precision", ["bf16", "fp32", "tf32"])
@pytest.mark.parametrize("operation", [*PRODUCTS, f"relu_product{BY_IMAGE}", f"coupling_product{BY_IMAGE}"])
def test_candidates_keep_the_promises_to_who_allocates(operation: str, precision: str) -> None:
    itemsize = 2 if precision == "bf16" else 4
    for name, tile in (*candidates(operation, precision), Way("pointers", default_tile(operation, itemsize))):
        if tile is None:
            continue
        assert all(-(-tokens // tile.tokens) <= sum_tiles(tokens) for tokens in (64, 65, 1000))
        assert tile.rows == LOGDET_ROWS or not operation.startswith("coupling_product")
        assert launchable(name, operation, tile, itemsize, SM_90)


def test_a_measured_table_goes_before_the_packaged_one() -> None:
    assert find_table("NVIDIA H200", (9, 0)).source.startswith("bench/ways_table.py")
    find_table.cache_clear()
    store(table(device="NVIDIA H200"))
    assert find_table("NVIDIA H200", (9, 0)).to_json() == table(device="NVIDIA H200").to_json()


def test_the_nearest_table_serves_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = [find_table("NVIDIA H100 80GB HBM3", (9, 0)) for _ in range(2)]
    assert [t.device for t in found] == 2 * ["NVIDIA H200"]
    (message,) = caplog.messages
    assert "not measured on NVIDIA H100 80GB HBM3: moleflow tune" in message


def test_no_table_at_all_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = [find_table("NVIDIA A100-SXM4-80GB", (8, 0)) for _ in range(2)]
    assert [t.entries for t in found] == [(), ()]
    (message,) = caplog.messages
    assert "defaults serve: moleflow tune" in message


def test_a_damaged_table_is_left_out_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    store(table(device="NVIDIA H200"))
    tuned_file("NVIDIA H200").write_text('{"device": "NVIDIA H200"')
    assert find_table("NVIDIA H200", (9, 0)).source.startswith("bench/ways_table.py")
    (message,) = caplog.messages
    assert "nvidia-h200.json" in message and "delete it, or measure again: moleflow tune" in message


def test_every_thread_sees_the_table() -> None:
    """A backward pass on a GPU runs in another."""
    given, seen = table(), []
    with use_table(table_of_one("relu_product", WIDE)), use_table(given):
        thread = threading.Thread(target=lambda: seen.append(current_table(CPU)))
        thread.start()
        thread.join()
    assert seen == [given] and current_table(CPU) is not given


def test_digests_tell_tables_apart_that_choose_otherwise() -> None:
    known = table()
    assert known.digest == table(source="elsewhere", device="another").digest
    assert known.digest != table(entries=known.entries[:1]).digest


def test_precisions() -> None:
    named = [precision_name(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    assert named == ["fp32", "bf16", "bf16"]


def test_packaged_tables_name_candidates_alone() -> None:
    found = list(packaged())
    assert "NVIDIA H200" in [t.device for t in found]
    for known in found:
        for entry in known.entries:
            named = {timing.way for timing in entry.timings}
            assert named <= set(candidates(entry.operation, entry.precision)), entry
            assert [t.us for t in entry.timings] == sorted(t.us for t in entry.timings)
