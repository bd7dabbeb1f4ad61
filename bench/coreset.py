"""A few patches that stand for all: PatchCore's memory bank (Roth et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

PROJECTED = 128  # dimensions, as in PatchCore
_CANDIDATES = 128
_PRODUCT = 2**22  # numbers of a product held at once, 16 MiB


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

    Points are read once for many choices: 8,000 of 280,000 took 36 s on two cores that others used too, where reading
    them once for each took 134 s in a fourth of the dimensions. As long as the farthest of some candidates is at least
    as far as every other point was, it is the farthest of all.

    Args:
        points: (n, d).
        size: how many; n at most are chosen, none twice.

    Returns:
        Indices (min(size, n),) in the order of choice.
    """
    size = min(size, len(points))
    points = points - points.mean(0)  # the products lose the digits that all have in common
    norms = points.square().sum(1)
    gaps = _less_norms(points, points[:1]).amin(1) + norms
    gaps[0] = -1  # chosen: behind every other, duplicates of it included
    chosen = [0]
    while len(chosen) < size:
        far, candidates = gaps.topk(min(_CANDIDATES, len(points)))
        centers = _farthest_first(points[candidates], far, size - len(chosen))
        picked = candidates[centers]
        nearest = torch.cat([_less_norms(rows, points[picked]).amin(1) for rows in _parts(points, len(picked))])
        gaps = torch.minimum(gaps, (nearest + norms).clamp_(min=0))
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


def _less_norms(points: Tensor, centers: Tensor) -> Tensor:
    """Squared distances (n, m), each less its point's squared norm, by one product."""
    return torch.addmm(centers.square().sum(1), points, centers.T, alpha=-2)


def _parts(points: Tensor, centers: int) -> tuple[Tensor, ...]:
    """Rows of points whose product with so many centers can be held."""
    return points.split(max(1, _PRODUCT // centers))


def nearest_distances(patches: Tensor, bank: Tensor) -> Tensor:
    """Euclidean distance (n,) of each patch (n, D) to the nearest of a bank (m, D).

    The product only says which is nearest; its distance is computed from the difference, where nothing cancels.
    """
    middle = bank.mean(0)
    centered = bank - middle
    found = []
    for rows in _parts(patches, len(bank)):
        nearest = _less_norms(rows - middle, centered).argmin(1)
        found.append((rows - bank[nearest]).norm(dim=1))
    return torch.cat(found)
