"""A store makes no copy to a GPU that the host waits for: shown on tensors that only say where they are."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from moleflow_fast.extractors import stores
from moleflow_fast.extractors.stores import TensorStore

GPU = torch.device("cuda", 0)


class Transfers(TorchDispatchMode):
    """Fails on an index that is not where the rows are, and on a copy between devices that the host waits for."""

    def __init__(self, pinned: list[torch.Tensor]) -> None:
        super().__init__()
        self.sent = self.indexed = 0
        self._pinned = pinned

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name in ("index", "index_select"):
            self.indexed += 1
            indices = args[1] if name == "index" else [args[2]]
            assert all(index.device == args[0].device for index in indices)
        if name == "_to_copy" and kwargs.get("device", args[0].device) != args[0].device:
            self.sent += 1
            assert kwargs["non_blocking"] and any(args[0] is tensor for tensor in self._pinned)
        return func(*args, **kwargs)


class InPlace:
    """Gathers in the calling thread, where the mode watches: two threads at once are one too many for fake tensors."""

    def __init__(self, threads: int) -> None:
        assert threads == 1

    def __enter__(self) -> "InPlace":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args))
        return future


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What was pinned, which tensors without contents cannot be."""
    found: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: found.append(self) or self)
    return found


@pytest.fixture(params=["device", "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[TensorStore]:
    with FakeTensorMode():
        patches = torch.empty(9, 4, 5, 16, device=GPU if request.param == "device" else "cpu")
        yield TensorStore(patches, torch.empty(9, 16, device=GPU), GPU, request.param)


def test_batches_are_gathered_without_waiting(
    store: TensorStore, pinned: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "ThreadPoolExecutor", InPlace)
    batches = list(torch.arange(9).split(4))
    with Transfers(pinned) as transfers:
        for patches, image_features in store.batches(batches):
            assert patches.device == image_features.device == GPU
    count = len(batches)
    assert (transfers.indexed, transfers.sent) == (2 * count, 1 if store.origin == "device" else 2 * count)


def test_single_patches_too(store: TensorStore, pinned: list[torch.Tensor]) -> None:
    with Transfers(pinned) as transfers:
        assert store.patches(torch.tensor([7, 2])).device == GPU
    assert transfers.indexed == transfers.sent == 1
