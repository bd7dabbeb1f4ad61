"""Frozen timm backbones as patch feature extractors, and the cache that runs them once per image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from .base import PatchExtractor
from .cache import FeatureCache
from .cnn import CNNPatchCoreExtractor
from .errors import BackboneError
from .families import default_embed_dim, default_layers, high_res_layers, is_vit
from .precision import Parity, reduce_precision
from .stores import FeatureStore
from .vit import DEFAULT_BLOCKS, ViTPatchCoreExtractor
from .weights import RANDOM, WeightsError, WeightsUnavailable, create_backbone, load_backbone_weights

__all__ = [
    "BackboneError",
    "CNNPatchCoreExtractor",
    "FeatureCache",
    "FeatureStore",
    "Parity",
    "PatchExtractor",
    "ViTPatchCoreExtractor",
    "WeightsError",
    "WeightsUnavailable",
    "create_backbone",
    "create_feature_extractor",
    "default_embed_dim",
    "default_layers",
    "high_res_layers",
    "is_vit",
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
        target_embed_dimension: D of a CNN, None for `default_embed_dim`; a ViT keeps its own width.
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
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if is_vit(backbone_name):
        if layers is not None:
            raise BackboneError(f"{backbone_name} is a ViT: choose blocks_to_extract, not layers")
        return _create_vit(
            backbone_name, input_shape, device, blocks_to_extract, remove_cls_token, weights, pretrained, drawn
        )
    if blocks_to_extract is not None:
        logger.info("%s is no ViT: blocks_to_extract has no effect", backbone_name)
    backbone, origin = create_backbone(backbone_name, pretrained, weights, input_shape, drawn)
    return CNNPatchCoreExtractor(
        backbone,
        backbone_name,
        layers or default_layers(backbone_name),
        target_embed_dimension or default_embed_dim(backbone_name),
        input_shape,
        patch_size,
        patch_stride,
        device,
        origin,
        keep_weights=origin == RANDOM and drawn is None,
    )


def _create_vit(
    backbone_name: str,
    input_shape: tuple[int, int, int],
    device: torch.device,
    blocks: Sequence[int] | None,
    remove_cls_token: bool,
    weights: str | Path | None,
    pretrained: bool | None,
    drawn: Path | None,
) -> ViTPatchCoreExtractor:
    backbone, origin = create_backbone(backbone_name, pretrained, weights, input_shape, drawn)
    if not remove_cls_token and getattr(backbone, "num_prefix_tokens", None):
        raise BackboneError("remove_cls_token=False: prefix tokens have no place in a patch grid")
    chosen = DEFAULT_BLOCKS if blocks is None else blocks
    keep = origin == RANDOM and drawn is None
    return ViTPatchCoreExtractor(backbone, backbone_name, chosen, input_shape, device, origin, keep_weights=keep)
