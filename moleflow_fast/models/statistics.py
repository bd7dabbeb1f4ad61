"""Running mean and standard deviation of the first task's features."""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureStatistics:
    """Exact mean and unbiased deviation per channel over every batch seen (parallel update of Chan et al.).

    `std` carries 1e-6 under the root. What is restored goes to `device`, as do features.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device
        self.count = 0
        self.is_finalized = False
        self._mean: Tensor | None = None  # (D,) float64: hundreds of batches must not drift
        self._squares: Tensor | None = None  # (D,) sum of squared deviations

    def to(self, device: torch.device | str) -> None:
        """Go where features come from now on."""
        self.device = device
        if self._mean is not None and self._squares is not None:
            self._mean, self._squares = self._mean.to(device), self._squares.to(device)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take in features (..., D); the leading dimensions are samples."""
        rows = features.detach().reshape(-1, features.shape[-1])
        n = rows.shape[0]
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        mean, squares = mean.double(), variance.double() * n
        if self._mean is None or self._squares is None:
            self._mean, self._squares, self.count = mean, squares, n
            return
        total = self.count + n
        delta = mean - self._mean
        self._squares = self._squares + squares + delta**2 * (self.count * n / total)
        self._mean = self._mean + delta * (n / total)
        self.count = total

    def finalize(self) -> None:
        self.is_finalized = self.count > 0

    def restore(self, mean: Tensor, std: Tensor) -> None:
        """Take on finalised statistics from a checkpoint; their count is not kept, so they end here."""
        mean, std = mean.to(self.device).double(), std.to(self.device).double()
        self._mean, self._squares, self.count = mean, std**2 - 1e-6, 1
        self.is_finalized = True

    def running(self) -> dict[str, Tensor]:
        """All that `update` has gathered, to the bit; empty before the first."""
        if self._mean is None or self._squares is None:
            return {}
        return {"mean": self._mean, "squares": self._squares, "count": torch.tensor(self.count)}

    def load_running(self, running: dict[str, Tensor]) -> None:
        """Take on what `running` gave.

        Raises:
            ValueError: it is not that; nothing was changed.
        """
        forms = {name: (value.dtype, value.dim()) for name, value in running.items()}
        row = (torch.float64, 1)
        if forms != {"mean": row, "squares": row, "count": (torch.int64, 0)}:
            raise ValueError("the statistics of features are not whole")
        self._mean, self._squares = (running[name].to(self.device) for name in ("mean", "squares"))
        self.count = int(running["count"])

    @property
    def n_samples(self) -> int:
        """Patches seen, over all epochs."""
        return self.count

    @property
    def is_initialized(self) -> bool:
        """Whether the first task is done, as the published name has it."""
        return self.is_finalized

    def get_reference_params(self) -> tuple[Tensor, Tensor]:
        """Copies of mean and deviation (D,).

        Raises:
            ValueError: before `finalize`.
        """
        if not self.is_finalized or self.mean is None or self.std is None:
            raise ValueError("the statistics are not finalized: train the first task, or call finalize()")
        return self.mean.clone(), self.std.clone()

    @property
    def mean(self) -> Tensor | None:
        """(D,) float32, or None before the first update."""
        return None if self._mean is None else self._mean.float()

    @property
    def std(self) -> Tensor | None:
        """(D,) float32, or None before the first update."""
        if self._squares is None:
            return None
        return (self._squares / max(self.count - 1, 1) + 1e-6).sqrt().float()
