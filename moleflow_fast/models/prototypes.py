"""What is known of the image features (means over patches, before positions) of one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from moleflow_fast.models.ledoit_wolf import Moments
from moleflow_fast.ops.mahalanobis import mahalanobis_distances_reference

REGULARISATION = 1e-5


class Prototype(ABC):
    """A mean; subclasses know how features spread around it."""

    def __init__(
        self,
        task_id: int,
        task_classes: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.task_id = task_id
        self.task_classes = list(task_classes or [])
        self.device = torch.device(device)
        self.n_samples = 0
        self.mean: Tensor | None = None  # (D,)

    @abstractmethod
    def update(self, features: Tensor) -> None:
        """Take in features (n, D)."""

    @abstractmethod
    def finalize(self) -> None:
        """Make ready for distances."""

    @abstractmethod
    def reads(self) -> tuple[Tensor, ...]:
        """The tensors that distances follow from, the mean first."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take on what `state_dict` gave."""

    def euclidean_distance(self, features: Tensor) -> Tensor:
        """|x - mean| of features (n, D), (n,)."""
        if self.mean is None:
            raise self._empty()
        return (features.to(self.mean) - self.mean).norm(dim=-1)

    def _empty(self) -> RuntimeError:
        return RuntimeError(f"the prototype of task {self.task_id} has seen no features: call update first")


class TaskPrototype(Prototype):
    """Mean and covariance, as published.

    The first update takes the unbiased covariance plus 1e-5 I; a later one with m rows of unbiased covariance S
    and mean difference d merges as C <- (n C + m S + (n m / (n + m)) d d^T) / (n + m).
    """

    covariance: Tensor | None = None  # (D, D)
    precision: Tensor | None = None  # (D, D), set by finalize

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take in features (n, D)."""
        rows = features.detach().to(self.device)
        m = rows.shape[0]
        mean = rows.mean(0)
        centered = rows - mean
        covariance = centered.T @ centered / max(m - 1, 1)
        self.precision = None
        if self.mean is None or self.covariance is None:
            identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=self.device)
            self.mean, self.covariance, self.n_samples = mean, covariance + REGULARISATION * identity, m
            return
        n, total = self.n_samples, self.n_samples + m
        difference = mean - self.mean
        between = torch.outer(difference, difference) * (n * m / total)
        self.covariance = (n * self.covariance + m * covariance + between) / total
        self.mean = self.mean + difference * (m / total)
        self.n_samples = total

    @torch.no_grad()
    def finalize(self) -> None:
        """Invert the covariance (pseudo-inverse where it is singular)."""
        if self.covariance is None:
            raise self._empty()
        inverse, info = torch.linalg.inv_ex(self.covariance)
        singular = bool(info.item()) or not bool(torch.isfinite(inverse).all())
        self.precision = torch.linalg.pinv(self.covariance) if singular else inverse

    def reads(self) -> tuple[Tensor, Tensor]:
        """Mean and precision."""
        if self.precision is None:
            self.finalize()
        assert self.mean is not None and self.precision is not None
        return self.mean, self.precision

    def mahalanobis_distance(self, features: Tensor) -> Tensor:
        """sqrt((x - mean)^T precision (x - mean)) of features (n, D), (n,)."""
        mean, precision = self.reads()
        return mahalanobis_distances_reference(features, [mean], [precision])[:, 0]

    def state_dict(self) -> dict[str, Tensor]:
        if self.mean is None or self.covariance is None:
            raise self._empty()
        return {"mean": self.mean, "covariance": self.covariance, "n_samples": torch.tensor(self.n_samples)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean = state["mean"].to(self.device)
        self.covariance = state["covariance"].to(self.device)
        self.n_samples = int(state["n_samples"])
        self.finalize()


class ScatterPrototype(Prototype):
    """Mean, and the sums that a router shrinks to a covariance, of this task alone or of several."""

    scatter: Tensor | None = None  # (D, D)
    fourth: Tensor | None = None  # (), fp64: sum of |x - mean|^4

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take in all features (n, D) of the task.

        Raises:
            RuntimeError: there was an update before. Merging sums of |x - mean|^4 takes third moments, which are not
                kept: concatenate the features.
        """
        if self.mean is not None:
            raise RuntimeError(f"the prototype of task {self.task_id} takes all features in one update: concatenate")
        rows = features.detach().to(self.device)
        self.mean, self.n_samples = rows.mean(0), len(rows)
        centred = (rows - self.mean).double()
        self.scatter = (centred.T @ centred).to(rows.dtype)
        self.fourth = centred.square().sum(1).square().sum()

    def finalize(self) -> None:
        self.reads()

    @property
    def moments(self) -> Moments:
        _, scatter, fourth = self.reads()
        return Moments(scatter, fourth, self.n_samples, tasks=1)

    def reads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and sums."""
        if self.mean is None or self.scatter is None or self.fourth is None:
            raise self._empty()
        return self.mean, self.scatter, self.fourth

    def state_dict(self) -> dict[str, Tensor]:
        mean, scatter, fourth = self.reads()
        return {"mean": mean, "scatter": scatter, "fourth": fourth, "n_samples": torch.tensor(self.n_samples)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean, self.scatter, self.fourth = (state[n].to(self.device) for n in ("mean", "scatter", "fourth"))
        self.n_samples = int(state["n_samples"])
