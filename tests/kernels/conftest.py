import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fresh floating tensor is full of NaN: what a kernel leaves out or reads too early shows."""
    plain = torch.Tensor.new_empty

    def new_empty(self: torch.Tensor, *size: object, **options: object) -> torch.Tensor:
        fresh = plain(self, *size, **options)  # type: ignore[arg-type]
        return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
