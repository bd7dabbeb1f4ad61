"""A few patches that stand for all: PatchCore's memory bank (Roth et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

PROJECTED = 128  # dimensions, as in PatchCore
_CANDIDATES = 128
_ROWS = 2048  # a product of them with 8,000 patches takes 66 MB


def random_coreset(patches: Tensor, size: int, seed: int) -> Tensor:
    """Indices (min(size, n),) of patches (n, D)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(patches), generator=generator)[:size].to(patches.device)


def greedy_coreset(patches: Tensor, size: int, seed: int) -> Tensor:
    """Indices (min(size, n),) of patches (n, D), chosen by `k_center` in a random projection."""
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(patches.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
    return k_center(patches @ projection.to(patches), size)


def k_center(points: Tensor, size: int) -> Tensor:
    """Greedy k-center: from the first point on, always the one farthest from all that are chosen.

    Points are read once for many choices, which is why 8,000 of 280,000 take 16 s on two cores instead of minutes: as
    long as the farthest of some candidates is at least as far as every other point was, it is the farthest of all.

    Args:
        points: (n, d).
        size: how many; n at most are chosen, none twice.

    Returns:
        Indices (min(size, n),) in the order of choice.
    """
    size = min(size, len(points))
    points = points - points.mean(0)  # the products lose the digits that all have in common
    gaps = squared_distances(points, points[:1]).amin(1)
    gaps[0] = -1  # chosen: behind every other, duplicates of it included
    chosen = [0]
    while len(chosen) < size:
        far, candidates = gaps.topk(min(_CANDIDATES, len(points)))
        centers = _farthest_first(points[candidates], far, size - len(chosen))
        picked = candidates[centers]
        for rows, gap in zip(points.split(_ROWS), gaps.split(_ROWS), strict=True):
            torch.minimum(gap, squared_distances(rows, points[picked]).amin(1), out=gap)
        gaps[picked] = -1
        chosen += picked.tolist()
    return torch.tensor(chosen, device=points.device)


def _farthest_first(points: Tensor, far: Tensor, most: int) -> Tensor:
    """Which candidates (c, d), with distances `far` in falling order, are chosen before any other point could be."""
    among, far, least = torch.cdist(points, points).square().fill_diagonal_(-1).cpu(), far.cpu(), far[-1].item()
    chosen: list[int] = []
    while len(chosen) < min(most, len(far)):
        best = int(far.argmax())
        if chosen and (far[best] < least or best in chosen):
            break
        chosen.append(best)
        far = torch.minimum(far, among[best])
    return torch.tensor(chosen, device=points.device)


def squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """(n, m) between points (n, d) and centers (m, d), by one product; at least 0."""
    norms = points.square().sum(1, keepdim=True) + centers.square().sum(1)
    return torch.addmm(norms, points, centers.T, alpha=-2).clamp_(min=0)


def nearest_distances(patches: Tensor, bank: Tensor) -> Tensor:
    """Euclidean distance (n,) of each patch (n, D) to the nearest of a bank (m, D).

    The product only says which is nearest; its distance is computed from the difference, where nothing cancels.
    """
    middle = bank.mean(0)
    centered = bank - middle
    found = []
    for rows in patches.split(_ROWS):
        nearest = squared_distances(rows - middle, centered).argmin(1)
        found.append((rows - bank[nearest]).norm(dim=1))
    return torch.cat(found)
