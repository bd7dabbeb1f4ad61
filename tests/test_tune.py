"""Choosing by measurement, with a timer of the test's own; kernels run in Triton's interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from moleflow_fast.cli import tune
from moleflow_fast.engine import tuning
from moleflow_fast.engine.tuning import Case, Sizes, cases
from moleflow_fast.kernels import products
from moleflow_fast.kernels.candidates import candidates
from moleflow_fast.kernels.operands import Shape
from moleflow_fast.kernels.ways import Implementation, choose, current_table, use_table
from moleflow_fast.kernels.ways_table import read_table, tuned_file, write_table

CPU = torch.device("cpu")
# The interpreter multiplies the raw bits of bf16.
SMALL = [case for case in cases(Sizes(32, 2, 21, CPU)) if case.precision == "fp32"]


def test_the_fastest_comes_first_in_each_entry(capsys: pytest.CaptureFixture[str]) -> None:
    """Pointers take 2, the library 1; of LoRA gradients the dense form 1, the factored one 2."""
    took = {"pointers": 2.0, "library": 1.0, "dense": 1.0, "factored": 2.0, "beside": 1.0, "in turn": 2.0}
    timed: list[str] = []

    def timer(run: tuning.Run) -> float:
        run()
        (entry, *_) = current_table(CPU).entries
        timed.append(entry.operation)
        return took[entry.timings[0].way.name]

    table = tune.tune(SMALL, "a GPU", (9, 0), CPU, timer)
    operations = {case.operation for case in SMALL}
    assert operations == {entry.operation for entry in table.entries} == set(timed)
    for case, entry in zip(SMALL, table.entries, strict=True):
        assert (entry.operation, entry.shape) == (case.operation, case.shape)
        assert {t.way for t in entry.timings} == set(candidates(case.operation, "fp32"))
        assert [t.us for t in entry.timings] == sorted(t.us for t in entry.timings)
        assert all(t.measured for t in entry.timings)
    with use_table(table):
        assert choose("relu_product", Shape(2, 64, 64, 1000), "fp32", CPU).name == "library"
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(SMALL)
    assert any("library 1.0 us; pointers 64x128x32, 8 warps, 3 stages 2.0 us" in text for text in printed)


def test_a_way_that_disagrees_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(op: products.Hidden, tile: None) -> None:
        op.out.fill_(0.1)

    monkeypatch.setitem(products._HIDDEN, "library", Implementation(wrong, lambda op, tile: True))
    case = next(case for case in SMALL if case.operation == "relu_product")
    (entry,) = tune.tune([case], "a GPU", (9, 0), CPU, lambda run: 1.0).entries
    names = {timing.way.name for timing in entry.timings}
    assert "pointers" in names and "library" not in names
    assert "library is left out: it is" in caplog.text


def test_a_way_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def failing(op: products.Hidden, tile: None) -> None:
        raise RuntimeError("no room\nfor this")

    monkeypatch.setitem(products._HIDDEN, "library", Implementation(failing, lambda op, tile: True))
    case = next(case for case in SMALL if case.operation == "relu_product")
    (entry,) = tune.tune([case], "a GPU", (9, 0), CPU, lambda run: 1.0).entries
    names = {timing.way.name for timing in entry.timings}
    assert "pointers" in names and "library" not in names
    assert caplog.messages[0].endswith("library is left out: no room")


def test_what_no_time_is_left_for_is_said(caplog: pytest.LogCaptureFixture) -> None:
    table = tune.tune(SMALL[:1], "a GPU", (9, 0), CPU, lambda run: 1.0, seconds=-1)
    assert table.entries == () and "no time left for library" in caplog.text


def test_only_what_can_be_launched_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with 64 KiB of shared memory a block."""
    monkeypatch.setattr(tuning, "shared_limit", lambda device: 64 << 10)
    case = Case("relu_product", "bf16", Shape(2, 768, 1152, 12544), lambda: lambda: ())
    names = {way.name for way in tuning._launchable(case, CPU)}
    assert "library" in names and not names & {"pointers", "descriptors"}


def test_cases_reach_every_operation_and_precision() -> None:
    """At the sizes that are measured; nothing is allocated before a case is built."""
    found = {(case.operation, case.precision) for case in cases(Sizes(768, 16, 784, CPU))}
    products = ("relu_product", "relu_gradient_product", "coupling_product")
    names = (*products, "relu_product by image", "coupling_product by image", "lora_gradients", "weight_gradients")
    assert found == {(name, precision) for name in names for precision in ("bf16", "tf32", "fp32")}


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    table = tune.tune(SMALL[:2], "a GPU", (9, 0), CPU, lambda run: 1.5)
    write_table(tmp_path / "t.json", table)
    again = read_table(tmp_path / "t.json")
    assert again.to_json() == table.to_json() and again.digest == table.digest
    assert json.loads((tmp_path / "t.json").read_text())["device"] == "a GPU"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([]) == 1
    assert "error: there is no GPU to measure" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEFLOW_CACHE", str(tmp_path))
    assert tune.main([]) == 0
    table = read_table(tuned_file(torch.cuda.get_device_name()))
    assert {entry.precision for entry in table.entries} == {"fp32", "tf32", "bf16"}


def test_help_teaches_without_torch() -> None:
    code = (
        "import sys; from moleflow_fast import tune\n"
        "try: tune.main(['--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "CUDA_VISIBLE_DEVICES=1 moleflow tune" in done.stdout
