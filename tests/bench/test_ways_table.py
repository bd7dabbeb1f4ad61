"""The packaged table of an H200 is what the script makes of the measured files."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")
import ways_table  # noqa: E402

from moleflow_fast.kernels.operands import Shape  # noqa: E402
from moleflow_fast.kernels.ways_table import Way, read_table  # noqa: E402


def ways(operation: str, precision: str, shape: Shape) -> list[str]:
    return [way.name for way in read_table(ways_table.TABLE).ways(operation, shape, precision)]


def test_the_file_is_what_the_script_makes() -> None:
    assert read_table(ways_table.TABLE).to_json() == ways_table.table().to_json()


@pytest.mark.parametrize("operation", ["relu_product", "relu_gradient_product", "coupling_product"])
def test_tf32_takes_the_library_and_bf16_descriptors(operation: str) -> None:
    shape = ways_table.BASE[operation]
    assert ways(operation, "tf32", shape)[0] == "library"
    assert ways(operation, "bf16", shape)[0] == "descriptors"


@pytest.mark.parametrize("product", ["relu_product", "coupling_product"])
def test_images_of_their_own_tasks_take_descriptors_in_bf16(product: str) -> None:
    name, shape = f"{product} by image", ways_table.BASE[product]
    assert ways(name, "bf16", shape) == ["descriptors", "pointers"]
    assert ways(name, "fp32", shape) == ways(name, "tf32", shape) == ["pointers"]


def test_images_pay_for_the_tokens_that_their_last_tiles_lack() -> None:
    """7 tiles of 128 for 784 tokens: 896."""
    us = {
        entry.operation: timing.us
        for entry in read_table(ways_table.TABLE).entries
        for timing in entry.timings
        if entry.precision == "bf16" and entry.shape.networks == 2 and timing.way.name == "descriptors"
        and entry.shape == ways_table.BASE.get(entry.operation.removesuffix(" by image"))
    }  # fmt: skip
    assert us["relu_product by image"] == pytest.approx(us["relu_product"] * 896 / 784, abs=0.1)
    assert us["coupling_product by image"] == pytest.approx(54.3 * 896 / 784, abs=0.1)  # nothing kept


def test_lora_gradients_are_dense_but_in_fp32() -> None:
    shape = Shape(1, 768, 384, 12544)
    assert [ways("lora_gradients", p, shape)[0] for p in ("bf16", "tf32", "fp32")] == ["dense", "dense", "factored"]


def test_measured_is_what_the_very_kernel_took() -> None:
    """Both networks in one launch, new epilogues, masks gone: put together from measured parts, so predicted."""
    known = {
        (entry.operation, entry.precision, timing.way.name)
        for entry in read_table(ways_table.TABLE).entries
        for timing in entry.timings
        if timing.measured
    }
    products = {(name, p) for name, p, _ in known if name != "lora_gradients"}
    assert not {name for name, _ in products} - {"relu_product", "relu_product by image", "relu_gradient_product"}
    assert {way for name, _, way in known if name != "lora_gradients"} == {"pointers"}
    assert ("relu_product", "bf16") not in products


def test_images_of_several_tasks_go_by_descriptors_too() -> None:
    """49 and 62 us are predicted where pointers took 71 and 123."""
    for operation in ("relu_product", "coupling_product"):
        assert ways(f"{operation} by image", "bf16", ways_table.BASE[operation]) == ["descriptors", "pointers"]


def test_a_probe_of_a_product_keeps_its_time() -> None:
    """63.7 us for both networks' last layers and the coupling, in tiles of 64 x 128 with 4 warps."""
    (entry,) = (
        e for e in read_table(ways_table.TABLE).entries
        if (e.operation, e.precision, e.shape) == ("coupling_product", "bf16", ways_table.BASE["coupling_product"])
    )  # fmt: skip
    assert entry.timings[0].us == 63.7 and not entry.timings[0].measured
    assert entry.timings[0].way == Way("descriptors", entry.timings[0].way.tile)
