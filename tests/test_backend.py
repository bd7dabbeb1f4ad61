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
    runs_on_triton,
    use_backend,
    use_precision,
)


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
        ("bf16", "auto", "cuda", "backend auto does not choose them"),
        ("bf16", "cpp", "cpu", "backend cpp does not choose them"),
        ("bf16", "triton", "cpu", "interpreter"),
    ],
)
def test_where_a_precision_runs(name: str, chosen: str, device: str, reason: str | None) -> None:
    with use_backend(chosen), use_precision(name):
        found = backend.why_not_precision(device)
    assert found is None if reason is None else reason in str(found)


@pytest.fixture
def on_gpu() -> Iterator[torch.Tensor]:
    """Without contents: what runs is decided from device, dtype and backend."""
    pytest.importorskip("triton")
    with FakeTensorMode():
        yield torch.empty(2, 3, 4, device="cuda")


@pytest.mark.parametrize(("name", "taken"), [("auto", False), ("eager", False), ("cpp", False), ("triton", True)])
def test_triton_has_to_be_asked_for(on_gpu: torch.Tensor, name: str, taken: bool) -> None:
    with use_backend(name):
        assert runs_on_triton(on_gpu) == taken


def test_what_triton_cannot_take(on_gpu: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with use_backend("triton"):
        assert not runs_on_triton(on_gpu.double())
        assert not runs_on_triton(on_gpu, torch.empty(2))
        assert not runs_on_triton(on_gpu, why_not="a gradient is wanted")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert not runs_on_triton(on_gpu)
