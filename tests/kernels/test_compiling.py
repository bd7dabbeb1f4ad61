"""What the compiler says of every kernel, for GPUs that are not here: no spills, tensor cores, wide copies."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "compiled.json").read_text())
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10}  # bytes a block can have
SPILLED = {"sm_80": 8, "sm_90": 0, "sm_100": 8}  # bytes
INSTRUCTION = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05"}
Figures = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Compiled once a run of the tests: workers beside this one share the result."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    result = folder / "compiled.json"
    with FileLock(folder / "compiled.lock"):
        if not result.exists():
            result.write_text(compile_apart())
    return json.loads(result.read_text())


@pytest.fixture
def kernels(compiled: dict[str, Any]) -> Figures:
    return compiled["kernels"]


def compile_apart() -> str:
    """In a process of its own: here kernels may have been decorated for the interpreter."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the package that is tested here
    done = subprocess.run([sys.executable, HERE / "compiling.py"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def products(kernels: dict[str, Any]) -> dict[str, Any]:
    """Those of bf16 operands; fp32 ones are multiplied exactly, without tensor cores."""
    return {name: kernel for name, kernel in kernels.items() if "product" in name and "bf16" in name}


def target(name: str) -> str:
    return name.split()[-1]


def test_every_kernel_compiles(kernels: Figures) -> None:
    assert sorted(kernels) == sorted(RECORDED["kernels"]), "regenerate the record: compiling.py --write"


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
    """Those of maps that hold 1e30, and of distances: tf32 has 11 bits."""
    used = {n: kernel["instruction"] for n, kernel in kernels.items() if n.startswith(("batched", "partial_squares"))}
    assert len(used) == 3 * len(SHARED) and set(used.values()) == {None}


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
