"""What the compiler says of every kernel, for GPUs that are not here: no spills, tensor cores, wide copies.

Of sm_90; with --full of sm_80 and sm_100 too, whose products `test_ways_compile` compiles in any case.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from compiled_apart import INSTRUCTION, SHARED, SPILLED, compiled_once

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "compiled.json").read_text())
Figures = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> dict[str, Any]:
    return compiled_once(HERE / "compiling.py", request)


@pytest.fixture
def kernels(compiled: dict[str, Any]) -> Figures:
    return compiled["kernels"]


def products(kernels: dict[str, Any]) -> dict[str, Any]:
    """Those of bf16 operands; fp32 ones are multiplied exactly, without tensor cores."""
    return {name: kernel for name, kernel in kernels.items() if "product" in name and "bf16" in name}


def target(name: str) -> int:
    """Compute capability: 90 of "... sm_90"."""
    return int(name.split()[-1].removeprefix("sm_"))


def expected(full: bool) -> set[str]:
    """Without --full those of a flow in bf16, and the operations around it, the only ones of sm_80 in fp32."""
    names = set(RECORDED["kernels"])
    if full:
        return names
    operations = {name.replace("sm_80", "sm_90") for name in names if name.endswith("fp32 sm_80")}
    return operations | {name for name in names if name.endswith("bf16 sm_90")}


def test_every_kernel_compiles(kernels: Figures, pytestconfig: pytest.Config) -> None:
    names = expected(pytestconfig.getoption("--full"))
    assert sorted(kernels) == sorted(names), "regenerate the record: compiling.py --write"


def test_nothing_spills(kernels: Figures) -> None:
    """But for one or two registers around a call, in no product of bf16, on GPUs that nothing is tuned for."""
    spilled = {name: kernel["spill_bytes"] for name, kernel in kernels.items() if kernel["spill_bytes"]}
    assert not products(spilled)
    assert {name: count for name, count in spilled.items() if count > SPILLED[target(name)]} == {}


def test_shared_memory_fits(kernels: Figures) -> None:
    sizes = {name: kernel["shared_bytes"] for name, kernel in kernels.items()}
    assert {name: size for name, size in sizes.items() if size > SHARED[target(name)]} == {}


def test_products_run_on_tensor_cores(kernels: Figures) -> None:
    used = {name: kernel["instruction"] for name, kernel in products(kernels).items()}
    assert used == {name: INSTRUCTION[target(name)] for name in used}


def test_products_that_must_be_exact_stay_off_tensor_cores(kernels: Figures) -> None:
    """Those of maps that hold 1e30, of distances, and of Gaussian fronts: tf32 has 11 bits."""
    exact = ("batched", "partial_squares", "whitened", "along_directions")
    used = {n: kernel["instruction"] for n, kernel in kernels.items() if n.startswith(exact)}
    assert len(used) == 6 * len({target(name) for name in kernels}) and set(used.values()) == {None}


def test_tensor_cores_do_not_wait_for_each_product(kernels: Figures) -> None:
    """Where registers of an accumulator are touched too early, the assembler serializes wgmma and says so."""
    assert [name for name, kernel in kernels.items() if kernel["serialized"]] == []


def test_operands_are_copied_16_bytes_at_a_time(kernels: Figures) -> None:
    """Of which there are none where the compiler cannot tell that rows start and end aligned: plain loads instead."""
    moved = {n: (k["copy_bytes"], k["narrow_loads"]) for n, k in kernels.items() if "product" in n}
    assert moved == {name: ([16], 0) for name in moved}


def test_registers_stay_near_the_record(compiled: dict[str, Any]) -> None:
    if compiled["triton"] != RECORDED["triton"]:
        pytest.skip(f"recorded with Triton {RECORDED['triton']}, this is {compiled['triton']}")
    used, recorded = (
        {name: kernel["registers"] for name, kernel in kernels.items()}
        for kernels in (compiled["kernels"], RECORDED["kernels"])
    )
    assert {name: count for name, count in used.items() if count > 1.1 * recorded[name]} == {}
