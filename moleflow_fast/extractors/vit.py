"""Patch features of a vision transformer: the patch tokens of a few blocks, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import PatchExtractor, probe_image, widened
from .capture import LayerCapture, drop_unused_tail
from .errors import BackboneError

DEFAULT_BLOCKS = (1, 3, 5, 11)


class ViTPatchCoreExtractor(PatchExtractor):
    """Mean of the patch tokens after the named blocks, on the token grid, in the model's own width.

    Args:
        backbone: the timm model, on the CPU, made for this input size; blocks after the last named one are
            removed from it.
        backbone_name: its timm name.
        blocks: zero-based block numbers.
        input_shape: (channels, height, width) of the images.
        device: where to run.
        weights_origin: where the weights come from, in words.
        keep_weights: keep them as `drawn`.

    Raises:
        BackboneError: the model has no such blocks.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_name: str,
        blocks: Sequence[int] = DEFAULT_BLOCKS,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        device: torch.device | str = "cpu",
        weights_origin: str = "unknown",
        keep_weights: bool = False,
    ) -> None:
        depth = len(backbone.blocks)  # type: ignore[arg-type]
        wrong = [b for b in blocks if not 0 <= b < depth]
        if wrong or not blocks:
            raise BackboneError(f"{backbone_name} has the blocks 0 to {depth - 1}; asked for {list(blocks)}")
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        super().__init__(backbone, backbone_name, width, weights_origin, {"blocks": list(blocks)})
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
        self.to(device=device)

    def patch_features(self, images: Tensor) -> Tensor:
        tokens = torch.stack([widened(tokens) for tokens in self._capture(images)]).mean(0)  # (B, T, D)
        patches = tokens[:, self.num_prefix_tokens :]
        return patches.reshape(images.shape[0], *self.grid, self.embed_dim)
