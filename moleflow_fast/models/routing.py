"""Which task an image belongs to: one Gaussian prototype per task, the nearest one wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.ops.mahalanobis import (
    GaussianStack,
    mahalanobis_distances,
    mahalanobis_distances_reference,
    nearest_gaussians,
    nearest_of,
    stack_gaussians,
    stackable,
)

REGULARISATION = 1e-5


class TaskPrototype:
    """Mean and covariance of a task's image-level features (mean over patches, before positions).

    The first update takes the unbiased covariance plus 1e-5 I; a later one with m rows of unbiased covariance S
    and mean difference d merges as C <- (n C + m S + (n m / (n + m)) d d^T) / (n + m).
    """

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
        self.covariance: Tensor | None = None  # (D, D)
        self.precision: Tensor | None = None  # (D, D), set by finalize

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
            raise RuntimeError(f"the prototype of task {self.task_id} has seen no features: call update first")
        inverse, info = torch.linalg.inv_ex(self.covariance)
        singular = bool(info.item()) or not bool(torch.isfinite(inverse).all())
        self.precision = torch.linalg.pinv(self.covariance) if singular else inverse

    def mahalanobis_distance(self, features: Tensor) -> Tensor:
        """sqrt((x - mean)^T precision (x - mean)) of features (n, D), (n,)."""
        if self.precision is None:
            self.finalize()
        assert self.mean is not None and self.precision is not None
        return mahalanobis_distances_reference(features, [self.mean], [self.precision])[:, 0]

    def euclidean_distance(self, features: Tensor) -> Tensor:
        """|x - mean| of features (n, D), (n,)."""
        if self.mean is None:
            raise RuntimeError(f"the prototype of task {self.task_id} has seen no features: call update first")
        return (features.to(self.mean) - self.mean).norm(dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        if self.mean is None or self.covariance is None:
            raise RuntimeError(f"the prototype of task {self.task_id} has seen no features: call update first")
        return {"mean": self.mean, "covariance": self.covariance, "n_samples": torch.tensor(self.n_samples)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean = state["mean"].to(self.device)
        self.covariance = state["covariance"].to(self.device)
        self.n_samples = int(state["n_samples"])
        self.finalize()


class PrototypeRouter:
    """Routes each image to the task whose prototype is nearest."""

    def __init__(self, device: torch.device | str = "cpu", use_mahalanobis: bool = True) -> None:
        self.device = torch.empty(0, device=device).device  # with its number, as its tensors have it
        self.use_mahalanobis = use_mahalanobis
        self.prototypes: dict[int, TaskPrototype] = {}
        self._stack = _StackCache()
        self._ids: tuple[list[int], Tensor] = ([], torch.empty(0, dtype=torch.long))

    def add_prototype(self, prototype: TaskPrototype) -> None:
        """Add or replace the prototype of a task."""
        prototype.finalize()
        self.prototypes[prototype.task_id] = prototype

    @torch.no_grad()
    def distances(self, features: Tensor) -> Tensor:
        """Distance of features (n, D) to each prototype in order of addition, (n, tasks)."""
        if not self.prototypes:
            raise RuntimeError("the router has no prototype yet: train a task first")
        prototypes = list(self.prototypes.values())
        if not self.use_mahalanobis:
            return torch.stack([p.euclidean_distance(features) for p in prototypes], dim=1)
        stack = self._stack.of(prototypes)
        if stack is None:
            return torch.stack([p.mahalanobis_distance(features) for p in prototypes], dim=1)
        return mahalanobis_distances(features, stack)

    def route(self, features: Tensor) -> Tensor:
        """The task id of each row of features (n, D), (n,); a NaN distance never wins over a number.

        With features and prototypes on one device nothing waits for it.
        """
        return self.distances_and_nearest(features)[1]

    @torch.no_grad()
    def distances_and_nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`distances` of features (n, D), and the task id of the smallest of each row, (n,)."""
        prototypes = list(self.prototypes.values())
        stack = self._stack.of(prototypes) if prototypes and self.use_mahalanobis else None
        if stack is not None:
            return nearest_gaussians(features, stack, self._task_ids(stack.means.device))
        distances = self.distances(features)
        return distances, nearest_of(distances, self._task_ids(distances.device))

    def reads(self) -> list[Any]:
        """What `route` reads, as objects: others once any of it has changed."""
        prototypes = list(self.prototypes.values())
        stack = self._stack.of(prototypes) if prototypes and self.use_mahalanobis else None
        tensors = [t for p in prototypes for t in (p.mean, p.precision)]
        return [stack, self._task_ids(self.device), *tensors]

    def _task_ids(self, device: torch.device) -> Tensor:
        """Task ids in order of addition, kept where they were last wanted, (tasks,)."""
        ids, tensor = self._ids
        if ids != list(self.prototypes) or tensor.device != device:
            ids = list(self.prototypes)
            tensor = torch.tensor(ids, device="cpu").to(device, non_blocking=True)
            self._ids = (ids, tensor)
        return tensor


_Sources = list[tuple[Tensor, int | None]]


class _StackCache:
    """The stack of the prototypes last asked for, built anew when any of their tensors is another or was written to.

    A write that leaves no trace in the tensor's version (through `.data` or numpy) goes unseen.
    """

    def __init__(self) -> None:
        # Sources and stack change together, in one assignment: another thread may be reading.
        self._built: tuple[_Sources, GaussianStack | None] = ([], None)

    def of(self, prototypes: Sequence[TaskPrototype]) -> GaussianStack | None:
        """None where the prototypes differ in shape, dtype or device."""
        means, precisions = [], []
        for prototype in prototypes:
            if prototype.precision is None:
                prototype.finalize()
            assert prototype.mean is not None and prototype.precision is not None
            means.append(prototype.mean)
            precisions.append(prototype.precision)
        source = [(t, _version(t)) for t in (*means, *precisions)]
        built_from, stack = self._built
        if _same(source, built_from):
            return stack
        del stack
        self._built = ([], None)  # two stacks need not fit into memory
        new = stack_gaussians(means, precisions) if stackable(means, precisions) else None
        self._built = (source, new)
        return new


def _same(sources: _Sources, others: _Sources) -> bool:
    return len(sources) == len(others) and all(
        new is old and version is not None and version == old_version
        for (new, version), (old, old_version) in zip(sources, others, strict=True)
    )


def _version(tensor: Tensor) -> int | None:
    """How often the tensor was written to; None for inference tensors, which do not count."""
    return None if tensor.is_inference() else tensor._version
