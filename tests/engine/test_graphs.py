"""What happens where a capture fails; that captures work, tests of what is captured show on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from moleflow_fast.engine import graphs


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """As on a GPU whose captures end in an error."""

    def fail(error: Exception) -> None:
        def graph(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(torch.cuda, "graph", graph)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "before")
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(graphs, "warm_up", lambda run: run())
    return fail


def test_what_cannot_be_captured_is_said_and_runs_without(
    failing: Callable[[Exception], None], caplog: pytest.LogCaptureFixture
) -> None:
    failing(RuntimeError("operation not permitted when stream is capturing\nmore of it"))
    assert graphs.capture(lambda: None) is None
    (record,) = caplog.records
    assert record.getMessage().endswith("which is slower: operation not permitted when stream is capturing")


def test_no_memory_is_not_hidden(failing: Callable[[Exception], None]) -> None:
    failing(torch.OutOfMemoryError("no room"))
    with pytest.raises(torch.OutOfMemoryError):
        graphs.capture(lambda: None)
