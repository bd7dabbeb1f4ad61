"""A backbone in bf16 or fp16, and how far its features are then from those in fp32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moleflow_fast.config.requested import BACKBONE_PRECISIONS

from .backbone_error import BackboneError
from .base import PatchExtractor


@dataclass(frozen=True)
class Parity:
    """Distances between features of two precisions, as fractions of the length of the fp32 feature."""

    precision: str
    images: int
    patch_median: float
    patch_worst: float
    image_worst: float
    """Of the mean over patches, which routes."""

    def __str__(self) -> str:
        return (
            f"{self.precision}, patch features {self.patch_median:.2%} from fp32 in the median and "
            f"{self.patch_worst:.2%} at worst, image features {self.image_worst:.2%} at worst ({self.images} images)"
        )


def dtype_of(precision: str) -> torch.dtype:
    """Of a backbone in a precision of `BACKBONE_PRECISIONS`."""
    dtype: torch.dtype = getattr(torch, BACKBONE_PRECISIONS[precision])
    return dtype


def reduce_precision(extractor: PatchExtractor, precision: str, images: Tensor) -> Parity:
    """Make the backbone run in `precision` and compare it with itself before on images (B, 3, S, S).

    Patch features stay fp32: what follows the backbone's last layer is computed in fp32.

    Raises:
        BackboneError: its features are no longer finite, as happens in fp16 beyond 65,504.
    """
    patches, image = extractor.features_with_image_level(images)
    extractor.to(dtype_of(precision))
    narrow_patches, narrow_image = extractor.features_with_image_level(images)
    if not narrow_patches.isfinite().all():
        raise BackboneError(
            f"{extractor.backbone_name} leaves the range of {precision}: "
            "take --backbone_precision bf16, which has the range of fp32, or fp32"
        )
    distances = _distances(narrow_patches, patches)
    return Parity(
        precision,
        len(images),
        float(distances.median()),
        float(distances.max()),
        float(_distances(narrow_image, image).max()),
    )


def _distances(narrow: Tensor, wide: Tensor) -> Tensor:
    return (narrow - wide).norm(dim=-1) / wide.norm(dim=-1).clamp_min(1e-12)
