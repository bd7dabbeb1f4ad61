"""Which task an image belongs to: one Gaussian prototype per task, the nearest one wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.models.ledoit_wolf import Shrunk, shrunk_covariance, total
from moleflow_fast.models.prototypes import Prototype, ScatterPrototype, TaskPrototype
from moleflow_fast.ops.mahalanobis import (
    Gaussians,
    mahalanobis_distances,
    nearest_gaussians,
    nearest_of,
    share_gaussians,
    stack_gaussians,
    stackable,
)


class PrototypeRouter:
    """Routes each image to the task whose prototype is nearest.

    Args:
        covariance: of the distances: "published", each task's own with 1e-5 on its diagonal; "class_ledoit_wolf", each
            task's own, shrunk; "pooled", one within-task covariance of the tasks that are there, shrunk.
    """

    def __init__(
        self, device: torch.device | str = "cpu", use_mahalanobis: bool = True, covariance: str = "published"
    ) -> None:
        self.device = torch.empty(0, device=device).device  # with its number, as its tensors have it
        self.use_mahalanobis = use_mahalanobis
        self.covariance = covariance
        self.prototypes: dict[int, Any] = {}  # task id -> Prototype, all of the kind that `new_prototype` makes
        self._stack = _StackCache(covariance)
        self._ids: tuple[list[int], Tensor] = ([], torch.empty(0, dtype=torch.long))

    @property
    def compares_distances(self) -> bool:
        """Whether distances to all prototypes are measured alike."""
        return self.use_mahalanobis and self.covariance == "pooled"

    def new_prototype(self, task_id: int, task_classes: Sequence[str] | None = None) -> Prototype:
        """An empty prototype of the kind that this router takes."""
        kind = TaskPrototype if self.covariance == "published" else ScatterPrototype
        return kind(task_id, task_classes, self.device)

    def add_prototype(self, task_id: int | Prototype, prototype: Prototype | None = None) -> None:
        """Add or replace the prototype of a task: `add_prototype(task_id, prototype)`, or the prototype alone.

        Raises:
            ValueError: a prototype of another task, or of a kind that this router does not take.
        """
        prototype = prototype or task_id  # type: ignore[assignment]
        assert isinstance(prototype, Prototype)
        if task_id not in (prototype, prototype.task_id):
            raise ValueError(f"the prototype is of task {prototype.task_id}, not of task {task_id}")
        if isinstance(prototype, ScatterPrototype) == (self.covariance == "published"):
            raise ValueError(f"a router of covariance {self.covariance} takes prototypes of its new_prototype alone")
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
        gaussians = self.gaussians()
        if gaussians is None:
            return torch.stack([p.mahalanobis_distance(features) for p in prototypes], dim=1)
        return mahalanobis_distances(features, gaussians)

    def route(self, features: Tensor) -> Tensor:
        """The task id of each row of features (n, D), (n,); a NaN distance never wins over a number.

        With features and prototypes on one device nothing waits for it.
        """
        return self.distances_and_nearest(features)[1]

    @torch.no_grad()
    def distances_and_nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`distances` of features (n, D), and the task id of the smallest of each row, (n,)."""
        gaussians = self.gaussians()
        if gaussians is not None:
            return nearest_gaussians(features, gaussians, self._task_ids(gaussians.means.device))
        distances = self.distances(features)
        return distances, nearest_of(distances, self._task_ids(distances.device))

    def gaussians(self) -> Gaussians | None:
        """The prototypes as distances read them; None where those are Euclidean, or published ones differ in kind."""
        return self._stack.of(self.prototypes) if self.prototypes and self.use_mahalanobis else None

    def reads(self) -> list[Any]:
        """What `route` reads, as objects: others once any of it has changed."""
        tensors = [t for p in self.prototypes.values() for t in p.reads()]
        return [self.gaussians(), self._task_ids(self.device), *tensors]

    def sources(self) -> Sources:
        """What routes follow from, to be compared by `same_sources`."""
        return _sources(self.prototypes)

    @torch.no_grad()
    def held_out_distances(self, task_id: int, distances: Tensor) -> Tensor:
        """What distances (n,) of images to the prototype that they were fitted to would be, had each been held out.

        Without a row x the mean of n moves away from it, to x - mean' = n / (n - 1) (x - mean), and the covariance
        loses w n / (n - 1) (x - mean) (x - mean)^T. By Sherman and Morrison's formula a distance d becomes
        n / (n - 1) d / sqrt(1 - w n / (n - 1) d^2). Shrinkage is taken as it is. Distances that are not pooled, and
        that of a single image, stay as they are.
        """
        n = self.prototypes[task_id].n_samples
        if not self.compares_distances or n < 2:
            return distances
        weight = _shrunk([self.prototypes[t] for t in sorted(self.prototypes)]).weight
        larger, squares = n / (n - 1), distances.double().square()
        lost = (weight.to(squares) * larger * squares).clamp_max(1 - 1e-9)
        return (larger * (squares / (1 - lost)).sqrt()).to(distances.dtype)

    @torch.no_grad()
    def rescaling(self, task_id: int, before: Iterable[int], now: Iterable[int]) -> float:
        """Root mean square distance of a task's training images among the tasks `now`, over that among those `before`.

        For a pooled covariance; it follows from the sums that are kept, without images.
        """
        scatter = self.prototypes[task_id].moments.scatter.double()
        groups = [[self.prototypes[t] for t in sorted(tasks)] for tasks in (before, now)]
        squares = [torch.cholesky_solve(scatter, torch.linalg.cholesky(_shrunk(g).covariance)).trace() for g in groups]
        return float((squares[1] / squares[0]).sqrt()) if squares[0] > 0 else 1.0

    def _task_ids(self, device: torch.device) -> Tensor:
        """Task ids in order of addition, kept where they were last wanted, (tasks,)."""
        ids, tensor = self._ids
        if ids != list(self.prototypes) or tensor.device != device:
            ids = list(self.prototypes)
            tensor = torch.tensor(ids, device="cpu").to(device, non_blocking=True)
            self._ids = (ids, tensor)
        return tensor


Sources = tuple[list[int], list[tuple[Tensor, int | None]]]  # task ids; tensors and how often each was written to


class _StackCache:
    """The stack of the prototypes last asked for, built anew when any of their tensors is another or was written to.

    A write that leaves no trace in the tensor's version (through `.data` or numpy) goes unseen.
    """

    def __init__(self, covariance: str) -> None:
        self._build = {"published": _own, "class_ledoit_wolf": _own_shrunk, "pooled": _pooled}[covariance]
        # Sources and stack change together, in one assignment: another thread may be reading.
        self._built: tuple[Sources, Gaussians | None] = (([], []), None)

    def of(self, prototypes: Mapping[int, Any]) -> Gaussians | None:
        sources = _sources(prototypes)
        built_from, stack = self._built
        if same_sources(sources, built_from):
            return stack
        del stack
        self._built = (([], []), None)  # two stacks need not fit into memory
        new = self._build(prototypes)
        self._built = (sources, new)
        return new


def _own(prototypes: Mapping[int, Any]) -> Gaussians | None:
    """None where the prototypes differ in shape, dtype or device."""
    means, precisions = zip(*(p.reads() for p in prototypes.values()), strict=True)
    return stack_gaussians(means, precisions) if stackable(means, precisions) else None


@torch.no_grad()
def _own_shrunk(prototypes: Mapping[int, Any]) -> Gaussians:
    means = [p.mean for p in prototypes.values()]
    factors = [torch.linalg.cholesky_ex(_shrunk([p]).covariance)[0] for p in prototypes.values()]
    return stack_gaussians(means, [torch.cholesky_inverse(f).to(m) for f, m in zip(factors, means, strict=True)])


@torch.no_grad()
def _pooled(prototypes: Mapping[int, Any]) -> Gaussians:
    """The same bits for the same tasks, in whatever order they came."""
    covariance = _shrunk([prototypes[t] for t in sorted(prototypes)]).covariance
    return share_gaussians([p.mean for p in prototypes.values()], covariance)


def _shrunk(prototypes: Sequence[Any]) -> Shrunk:
    return shrunk_covariance(total([p.moments for p in prototypes]))


def same_sources(sources: Sources, others: Sources) -> bool:
    """Whether nothing has changed; a write through `.data` or numpy goes unseen."""
    (ids, tensors), (other_ids, other_tensors) = sources, others
    return (
        ids == other_ids
        and len(tensors) == len(other_tensors)
        and all(
            new is old and version is not None and version == old_version
            for (new, version), (old, old_version) in zip(tensors, other_tensors, strict=True)
        )
    )


def _sources(prototypes: Mapping[int, Any]) -> Sources:
    return list(prototypes), [(t, _version(t)) for p in prototypes.values() for t in p.reads()]


def _version(tensor: Tensor) -> int | None:
    """How often the tensor was written to; None for inference tensors, which do not count."""
    return None if tensor.is_inference() else tensor._version
