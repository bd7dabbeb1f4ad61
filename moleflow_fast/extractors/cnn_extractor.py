"""Patch features of a CNN: neighbourhoods of the maps of a few layers, pooled to one width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_fast.backend import wants_triton
from moleflow_fast.ops.patch_pool import patch_grid, patch_pool, patch_pool_and_means

from .backbone_error import BackboneError
from .base import PatchExtractor, default_device, probe_image
from .capture import LayerCapture, drop_unused_tail
from .families import default_layers
from .folding import fold_batch_norms
from .fused import FusedGraph, FusedLayers
from .weights import create_backbone


class CNNPatchCoreExtractor(PatchExtractor):
    """Patch features of the named layers of a timm model with spatial feature maps.

    Args:
        backbone_name: its timm name.
        layers: names of submodules, `default_layers` where None; the patch grid of the first is that of the result.
        input_shape: (channels, height, width) of the images.
        patch_size, patch_stride: the neighbourhoods.
        target_embed_dimension: D.
        device: where to run; None for the GPU where there is one.
        backbone: the timm model, on the CPU, made by `create_backbone` where None; what runs after the last named layer
            is removed from it, and its batch norms are folded into its convolutions.
        weights_origin: where its weights come from, in words.
        keep_weights: whether they are kept as `drawn`, as they are before that.

    Raises:
        BackboneError: a name is no layer, or a layer gives no (B, C, H, W) or (B, H, W, C) map.
        WeightsUnavailable: see `create_backbone`.
    """

    def __init__(
        self,
        backbone_name: str = "wide_resnet50_2",
        layers: Sequence[str] | None = None,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        patch_size: int = 3,
        patch_stride: int = 1,
        target_embed_dimension: int = 1024,
        device: torch.device | str | None = None,
        *,
        backbone: nn.Module | None = None,
        weights_origin: str = "unknown",
        keep_weights: bool = False,
    ) -> None:
        if backbone is None:
            backbone, weights_origin = create_backbone(backbone_name, input_shape=input_shape)
        layers = layers or default_layers(backbone_name)
        recipe = {"layers": list(layers), "embed_dim": target_embed_dimension, "patch": [patch_size, patch_stride]}
        super().__init__(backbone, backbone_name, target_embed_dimension, weights_origin, recipe)
        self.layers = tuple(layers)
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self._channels_last = getattr(backbone, "output_fmt", None) == "NHWC"
        self._capture = LayerCapture(backbone, layers)
        with torch.no_grad():
            probe = probe_image(input_shape)
            drop_unused_tail(self._capture, probe)
            if keep_weights:
                self.keep_drawn()
            fold_batch_norms(self._capture, probe)
        self._fused = FusedLayers(self._capture, backbone_name, probe)
        # convolutions on two cores: MobileNetV2 1.9x, WideResNet-50-2 1.1x as fast as in the default format
        self.to(memory_format=torch.channels_last).to(device or default_device())

    def patch_features(self, images: Tensor) -> Tensor:
        return patch_pool(*self._pooling(self._outputs(images)))

    @torch.no_grad()
    def features_with_image_level(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return patch_pool_and_means(*self._pooling(self._outputs_of(images)))

    def _features(self, images: Tensor) -> Tensor:
        return patch_pool(*self._pooling(self._outputs_of(images)))

    def _outputs_of(self, images: Tensor) -> list[Tensor]:
        """Outputs of the layers for images as the extractor is given them."""
        fused = self.fused() if images.dtype == torch.uint8 else None
        if fused is None:
            return self._outputs(self._prepared(images))
        return fused.of_bytes(images.to(self.device, non_blocking=True), self.dtype)

    def _outputs(self, images: Tensor) -> list[Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        return (self.fused() or self._capture)(images)

    def _pooling(self, outputs: list[Tensor]) -> tuple[list[Tensor], int, tuple[int, int], int, int]:
        """What pooling takes of the layers' outputs."""
        maps = [self._as_map(name, output) for name, output in zip(self.layers, outputs, strict=True)]
        grid = patch_grid(maps[0], self.patch_size, self.patch_stride)
        return maps, self.embed_dim, grid, self.patch_size, self.patch_stride

    def fused(self) -> FusedGraph | None:
        """The backbone as it runs beside Triton kernels: another object once its weights are others; else None."""
        return self._fused.current() if wants_triton(self.device) else None

    def reads(self) -> list[Any]:
        return [self, self.fused()]

    def _as_map(self, name: str, output: Tensor) -> Tensor:
        if output.ndim != 4:
            raise BackboneError(
                f"layer {name!r} of {self.backbone_name} gives a tensor of shape {tuple(output.shape)}, "
                "not a feature map (B, C, H, W): name another layer"
            )
        return output.permute(0, 3, 1, 2) if self._channels_last else output  # (B, C, H, W)
