"""Frozen timm backbones as patch feature extractors, and the cache that runs them once per image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .backbone_error import BackboneError
from .base import PatchExtractor
from .cache import FeatureCache
from .cnn_extractor import CNNPatchCoreExtractor
from .families import default_embed_dim, default_layers, high_res_layers, is_vit
from .precision import Parity, reduce_precision
from .stores import FeatureStore
from .vit_extractor import DEFAULT_BLOCKS, ViTPatchCoreExtractor
from .weights import RANDOM, WeightsError, WeightsUnavailable, create_backbone, load_backbone_weights

__all__ = [
    "BackboneError",
    "CNNPatchCoreExtractor",
    "FeatureCache",
    "FeatureStore",
    "Parity",
    "PatchCoreExtractor",
    "PatchExtractor",
    "ViTPatchCoreExtractor",
    "WeightsError",
    "WeightsUnavailable",
    "create_backbone",
    "create_feature_extractor",
    "default_embed_dim",
    "default_layers",
    "get_backbone_type",
    "high_res_layers",
    "is_cnn_backbone",
    "is_vit",
    "is_vit_backbone",
    "load_backbone_weights",
    "reduce_precision",
]

logger = logging.getLogger(__name__)


def create_feature_extractor(
    backbone_name: str,
    input_shape: tuple[int, int, int] = (3, 224, 224),
    target_embed_dimension: int | None = 768,
    device: torch.device | str | None = None,
    blocks_to_extract: Sequence[int] | None = None,
    remove_cls_token: bool = True,
    layers: Sequence[str] | None = None,
    patch_size: int = 3,
    patch_stride: int = 1,
    weights: str | Path | None = None,
    pretrained: bool | None = None,
    drawn: Path | None = None,
) -> PatchExtractor:
    """Make the patch feature extractor of a timm backbone.

    Args:
        backbone_name: any timm name.
        input_shape: (channels, height, width) of the images.
        target_embed_dimension: D, None for `default_embed_dim`; see the two classes.
        device: where to run; None for the GPU where there is one.
        blocks_to_extract: zero-based blocks of a ViT, [1, 3, 5, 11] where None; a CNN has none.
        remove_cls_token: must stay True for a ViT with prefix tokens: they have no place in the grid.
        layers: submodules of a CNN, `default_layers` where None; a ViT has none.
        patch_size, patch_stride: neighbourhoods of a CNN.
        weights: file for `load_backbone_weights`.
        pretrained: False for random weights; see `create_backbone`.
        drawn: file with the random weights that a run drew; else they are drawn, and kept as the extractor's `drawn`.

    Returns:
        `extractor(images, return_spatial_shape=False)` -> (B, H, W, D) [, (H, W)].

    Raises:
        BackboneError: unknown backbone, layer or block.
        WeightsError, WeightsUnavailable: see `create_backbone`.
    """
    vit = is_vit(backbone_name)
    if vit and layers is not None:
        raise BackboneError(f"{backbone_name} is a ViT: choose blocks_to_extract, not layers")
    if not vit and blocks_to_extract is not None:
        logger.info("%s is no ViT: blocks_to_extract has no effect", backbone_name)
    backbone, origin = create_backbone(backbone_name, pretrained, weights, input_shape, drawn)
    made: dict[str, Any] = {
        "input_shape": input_shape,
        "device": device,
        "backbone": backbone,
        "weights_origin": origin,
        "keep_weights": origin == RANDOM and drawn is None,
    }
    if vit:
        return ViTPatchCoreExtractor(
            backbone_name,
            DEFAULT_BLOCKS if blocks_to_extract is None else blocks_to_extract,
            target_embed_dimension=target_embed_dimension,
            remove_cls_token=remove_cls_token,
            **made,
        )
    return CNNPatchCoreExtractor(
        backbone_name,
        layers,
        patch_size=patch_size,
        patch_stride=patch_stride,
        target_embed_dimension=target_embed_dimension or default_embed_dim(backbone_name),
        **made,
    )


def get_backbone_type(backbone_name: str) -> str:
    """The text `vit` or `cnn`; BackboneError for a name that timm does not know."""
    return "vit" if is_vit(backbone_name) else "cnn"


def is_cnn_backbone(backbone_name: str) -> bool:
    """Whether a backbone has feature maps and no tokens; BackboneError for a name that timm does not know."""
    return not is_vit(backbone_name)


is_vit_backbone = is_vit
PatchCoreExtractor = CNNPatchCoreExtractor
