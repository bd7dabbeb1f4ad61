"""Choosing a backend and a precision: who wins, and what it does to torch's flags."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from moleflow_fast import backend
from moleflow_fast.backend import (
    BACKENDS,
    PRECISIONS,
    BackendError,
    flow_backend,
    runs_compiled,
    runs_on_triton,
    use_backend,
    use_precision,
)
from moleflow_fast.config import AblationConfig
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.packing.target import Target, target_on


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(False, True), (True, True), (False, False)])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """Torch's flags as a caller may have set them; put back afterwards."""
    found = flags()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = found


@pytest.mark.parametrize(("name", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_flags_of_torch_in_the_block_and_after_it(name: str, tf32: bool, before: tuple[bool, bool]) -> None:
    with use_precision(name):
        assert flags() == (tf32, tf32)
    assert flags() == before
    with pytest.raises(RuntimeError, match="inside"), use_precision(name):
        raise RuntimeError("inside")
    assert flags() == before


def test_blocks_in_blocks() -> None:
    found = flags()
    with use_precision("tf32"):
        with use_precision("bf16"):
            assert flags() == (False, False)
            assert backend.product_operands() == "bf16"
        assert flags() == (True, True)
    assert flags() == found


@pytest.mark.parametrize(("name", "operands"), [("fp32", "fp32"), ("tf32", "fp32"), ("bf16", "bf16")])
def test_operands_of_the_kernels(name: str, operands: str) -> None:
    with use_precision(name):
        assert backend.requested_precision() == name
        assert backend.product_operands() == operands


def test_environment_and_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOLEFLOW_BACKEND", raising=False)
    monkeypatch.delenv("MOLEFLOW_PRECISION", raising=False)
    assert (backend.given_backend(), backend.given_precision()) == (None, None)
    assert (backend.requested_backend(), backend.requested_precision()) == ("auto", "fp32")
    monkeypatch.setenv("MOLEFLOW_BACKEND", "eager")
    monkeypatch.setenv("MOLEFLOW_PRECISION", "tf32")
    assert (backend.given_backend(), backend.given_precision()) == ("eager", "tf32")
    with use_backend("cpp"), use_precision("fp32"):
        assert (backend.requested_backend(), backend.requested_precision()) == ("cpp", "fp32")


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found = flags()
    with pytest.raises(BackendError, match=f"must be one of {', '.join(BACKENDS)}"), use_backend("fast"):
        pass
    with pytest.raises(BackendError, match=f"must be one of {', '.join(PRECISIONS)}"), use_precision("fp16"):
        pass
    assert flags() == found
    monkeypatch.setenv("MOLEFLOW_PRECISION", "half")
    with pytest.raises(BackendError, match="unknown precision 'half'"):
        backend.requested_precision()


@pytest.mark.parametrize(
    ("name", "chosen", "device", "reason"),
    [
        ("fp32", "auto", "cpu", None),
        ("tf32", "eager", "cuda", None),
        ("bf16", "triton", "cuda", None),
        ("bf16", "auto", "cuda", None),
        ("bf16", "auto", "cpu", "the device is cpu"),
        ("bf16", "eager", "cuda", "backend eager was asked for"),
        ("bf16", "cpp", "cpu", "backend cpp was asked for"),
        ("bf16", "triton", "cpu", "the device is cpu"),
    ],
)
def test_where_a_precision_runs(name: str, chosen: str, device: str, reason: str | None) -> None:
    pytest.importorskip("triton")
    with use_backend(chosen), use_precision(name):
        found = backend.why_not_precision(device)
        assert found is None if reason is None else reason in str(found)
        plain = backend.why_not_precision(device, "its layers carry hooks")
        assert (plain is None) == (name != "bf16")  # what is not compiled has no bf16 operands


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.Tensor]:
    """Without contents: what runs is decided from device, dtype and backend."""
    pytest.importorskip("triton")
    monkeypatch.delenv("MOLEFLOW_BACKEND", raising=False)
    with FakeTensorMode():
        yield torch.empty(2, 3, 4, device="cuda")


@pytest.mark.parametrize(("name", "taken"), [("auto", True), ("eager", False), ("cpp", False), ("triton", True)])
def test_auto_takes_triton_on_a_gpu(on_gpu: torch.Tensor, name: str, taken: bool) -> None:
    with use_backend(name):
        assert (flow_backend(on_gpu.device) == "triton") == runs_on_triton(on_gpu) == taken


def test_auto_takes_the_compiled_part_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Triton's interpreter would run there."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    on_cpu = torch.randn(2, 3)
    for name, found in {"auto": "cpp", "eager": "cpp", "cpp": "cpp", "triton": "triton"}.items():
        with use_backend(name):
            assert flow_backend(on_cpu.device) == found
            assert runs_on_triton(on_cpu) == (name == "triton" and importlib.util.find_spec("triton") is not None)
            assert runs_compiled(on_cpu) == (name in ("auto", "cpp"))


@pytest.fixture
def untold() -> Iterator[None]:
    """No warning of this process counts as given."""
    backend._warn_of_plain_flow.cache_clear()
    yield
    backend._warn_of_plain_flow.cache_clear()


@pytest.mark.usefixtures("untold")
def test_a_flow_that_triton_cannot_take(on_gpu: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    for reason in ("its layers carry hooks", "its layers carry hooks", "its subnet is a Linear"):
        assert not runs_compiled(on_gpu, why_not=reason, backend=flow_backend(on_gpu.device))
    assert not runs_compiled(on_gpu.double(), backend="triton")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and all("--backend eager" in line for line in said)  # once a reason
    assert "its layers carry hooks" in said[0] and "its subnet is a Linear" in said[1] and "float64" in said[2]
    with use_backend("triton"), pytest.raises(BackendError, match="carry hooks"):
        runs_compiled(on_gpu, why_not="its layers carry hooks", backend="triton")


@pytest.mark.usefixtures("untold")
def test_a_gpu_without_triton(
    on_gpu: torch.Tensor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not runs_compiled(on_gpu, backend=flow_backend(on_gpu.device))
    assert "pip install triton" in caplog.text
    with use_precision("bf16"):
        assert "not installed" in str(backend.why_not_precision("cuda"))


@pytest.mark.usefixtures("untold")
def test_operations_beside_the_flow_say_nothing(on_gpu: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    assert not runs_on_triton(on_gpu.double()) and not runs_compiled(on_gpu)
    assert caplog.text == ""


def test_what_triton_cannot_take(on_gpu: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with use_backend("triton"):
        assert not runs_on_triton(on_gpu.double())
        assert not runs_on_triton(on_gpu, torch.empty(2))
        assert not runs_on_triton(on_gpu, why_not="a gradient is wanted")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert not runs_on_triton(on_gpu)


@pytest.mark.parametrize(
    ("name", "found"), [("auto", "triton"), ("triton", "triton"), ("cpp", "cpp"), ("eager", "cpp")]
)
def test_a_model_on_a_gpu(name: str, found: str) -> None:
    """Its passes, its images of several tasks and the operands that it packs go by one choice."""
    pytest.importorskip("triton")
    model = MoLESpatialAwareNF(8, 1, lora_rank=2, ablation_config=AblationConfig(dia_n_blocks=1))
    model.add_task(0)
    with FakeTensorMode(), use_backend(name), use_precision("bf16"):
        x = torch.empty(2, 3, 4, 8, device="cuda")
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                store.update({n: x.new_empty(t.shape, dtype=t.dtype) for n, t in store.items() if t is not None})
        assert flow_backend(x.device) == found
        expert = model.expert(0)
        assert (model.runner.why_not_compiled(expert.flow, x) is None) == (found == "triton")
        assert (model.runner.why_not_batched([expert], x) is None) == (found == "triton")
        on_triton, on_cpu = Target("channel_major", "bf16", tf32=False), Target("cpu", "fp32", tf32=False)
        assert target_on(x.device) == (on_triton if found == "triton" else on_cpu)
