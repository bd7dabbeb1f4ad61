"""Patch features of a vision transformer: the patch tokens of a few blocks, averaged, brought to one width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone_error import BackboneError
from .base import PatchExtractor, default_device, probe_image, widened
from .capture import LayerCapture, drop_unused_tail
from .weights import create_backbone

DEFAULT_BLOCKS = (1, 3, 5, 11)


class ViTPatchCoreExtractor(PatchExtractor):
    """Mean of the patch tokens after the named blocks, on the token grid.

    Where another width is wanted than the model's own, each block's tokens go through a linear layer that is drawn and
    never trained, as published: the same on every machine.

    Args:
        backbone_name: its timm name.
        blocks_to_extract: zero-based block numbers.
        input_shape: (channels, height, width) of the images.
        target_embed_dimension: D; None for the model's own width.
        device: where to run; None for the GPU where there is one.
        remove_cls_token: must stay True where there are prefix tokens: they have no place in the grid.
        backbone: the timm model, on the CPU, made for this input size, by `create_backbone` where None; blocks after
            the last named one are removed from it.
        weights_origin: where its weights come from, in words.
        keep_weights: whether they are kept as `drawn`.

    Raises:
        BackboneError: the model has no such blocks, or its prefix tokens shall stay.
        WeightsUnavailable: see `create_backbone`.
    """

    def __init__(
        self,
        backbone_name: str = "vit_base_patch14_dinov2.lvd142m",
        blocks_to_extract: Sequence[int] = (8, 9, 10, 11),
        input_shape: tuple[int, int, int] = (3, 224, 224),
        target_embed_dimension: int | None = 1024,
        device: torch.device | str | None = None,
        remove_cls_token: bool = True,
        *,
        backbone: nn.Module | None = None,
        weights_origin: str = "unknown",
        keep_weights: bool = False,
    ) -> None:
        if backbone is None:
            backbone, weights_origin = create_backbone(backbone_name, input_shape=input_shape)
        if not remove_cls_token and getattr(backbone, "num_prefix_tokens", None):
            raise BackboneError("remove_cls_token=False: prefix tokens have no place in a patch grid")
        blocks = blocks_to_extract
        depth = len(backbone.blocks)  # type: ignore[arg-type]
        wrong = [b for b in blocks if not 0 <= b < depth]
        if wrong or not blocks:
            raise BackboneError(f"{backbone_name} has the blocks 0 to {depth - 1}; asked for {list(blocks)}")
        own = int(backbone.embed_dim)  # type: ignore[arg-type]
        width = target_embed_dimension or own
        recipe = {"blocks": list(blocks)} | ({} if width == own else {"embed_dim": width})
        super().__init__(backbone, backbone_name, width, weights_origin, recipe)
        self.projections = nn.ModuleList() if width == own else _projections(len(blocks), own, width)
        self.blocks = tuple(blocks)
        self.num_prefix_tokens = int(getattr(backbone, "num_prefix_tokens", 0))  # class and register tokens
        rows, columns = backbone.patch_embed.grid_size  # type: ignore[union-attr, misc]
        self.grid = (int(rows), int(columns))
        names = [f"blocks.{b}" for b in blocks]
        self._capture = LayerCapture(backbone, names)
        with torch.no_grad():
            drop_unused_tail(self._capture, probe_image(input_shape))
        if keep_weights:
            self.keep_drawn()
        self.to(device=device or default_device())

    def patch_features(self, images: Tensor) -> Tensor:
        blocks = [widened(tokens) for tokens in self._capture(images)]
        if self.projections:
            blocks = [_projected(tokens, layer) for tokens, layer in zip(blocks, self.projections, strict=True)]
        tokens = torch.stack(blocks).mean(0)  # (B, T, D)
        patches = tokens[:, self.num_prefix_tokens :]
        return patches.reshape(images.shape[0], *self.grid, self.embed_dim)


def _projected(tokens: Tensor, layer: nn.Module) -> Tensor:
    """In fp32, whatever the backbone runs in."""
    return F.linear(tokens, layer.weight.float(), layer.bias.float())  # type: ignore[arg-type]


def _projections(count: int, own: int, width: int) -> nn.ModuleList:
    """Layers as `nn.Linear` draws them, by NumPy's generator: torch draws others on other instruction sets."""
    generator, bound = np.random.default_rng(0), own**-0.5
    layers = nn.ModuleList(nn.Linear(own, width) for _ in range(count))
    for parameter in layers.parameters():
        drawn = generator.uniform(-bound, bound, tuple(parameter.shape)).astype(np.float32)
        parameter.data.copy_(torch.from_numpy(drawn))
    return layers.requires_grad_(False)
