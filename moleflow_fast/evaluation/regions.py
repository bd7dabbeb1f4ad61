"""Defective pixels of masks, and what each weighs in the mean overlap of regions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from moleflow_fast._compiled import compiled


class DefectivePixels(NamedTuple):
    """Of masks (N, H, W) with R regions, which are 8-connected components: 16 bytes a defective pixel."""

    shape: tuple[int, ...]  # of the masks
    places: Tensor  # (P,) int64, in the flattened masks, ascending
    weights: Tensor  # (P,) fp64, 1 / (R s) in a region of s pixels


def defective_pixels(masks: Tensor | ArrayLike) -> DefectivePixels:
    """Label the regions of masks (N, H, W), 1 where defective.

    Raises:
        ValueError: another number of dimensions, or a value is neither 0 nor 1.
    """
    truth = binary(masks)
    if truth.ndim != 3:
        raise ValueError(f"masks must be (N, H, W), got {truth.shape}")
    places, weights = compiled.defective_pixels(truth, torch.get_num_threads())
    return DefectivePixels(truth.shape, torch.from_numpy(places), torch.from_numpy(weights))


def defective_pixels_of(masks: Sequence[Tensor]) -> DefectivePixels:
    """Those of masks (H, W) of several shapes, as of their values in a row, (1, 1, P)."""
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (0, 1))
    padded = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for place, mask in zip(padded, masks, strict=True):
        place[: mask.shape[0], : mask.shape[1]] = mask
    _, places, weights = defective_pixels(padded)
    image, inside = places // (height * width), places % (height * width)
    starts = torch.tensor([0, *itertools.accumulate(mask.numel() for mask in masks)])
    widths = torch.tensor([mask.shape[1] for mask in masks])
    in_a_row = starts[image] + inside // width * widths[image] + inside % width
    return DefectivePixels((1, 1, int(starts[-1])), in_a_row, weights)


def binary(labels: Tensor | ArrayLike) -> NDArray[np.uint8]:
    """Labels or masks as bytes.

    Raises:
        ValueError: a value is neither 0 nor 1.
    """
    values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError("labels and masks must be 0 or 1: threshold a grey mask first")
    return np.ascontiguousarray(values, dtype=np.uint8)
