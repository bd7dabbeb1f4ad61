"""What every patch feature extractor shares: frozen weights, one pass for both levels, a fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_fast.data.normalization import normalized


class PatchExtractor(nn.Module):
    """A frozen backbone that turns images (B, 3, M, M) into patch features (B, H, W, D), fp32 whatever it runs in.

    Images are normalised, of any floating type; or uint8, RGB, and normalised on the device.

    Subclasses compute `patch_features`. Always in eval mode and without gradients; results are ordinary
    tensors that may enter a training graph. Several threads may call one extractor at once.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_name: str,
        embed_dim: int,
        weights_origin: str,
        recipe: dict[str, Any],
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.backbone_name = backbone_name
        self.embed_dim = embed_dim
        self.weights_origin = weights_origin
        self.drawn: dict[str, Tensor] = {}
        """Random weights that no file holds yet, by their names in the timm model; empty otherwise."""
        self._recipe = recipe
        self._fingerprint: tuple[list[tuple[str, int, int]], str, dict[str, Tensor]] | None = None
        super().train(False)

    @property
    def target_embed_dimension(self) -> int:
        """D, by its published name."""
        return self.embed_dim

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype

    def train(self, mode: bool = True) -> PatchExtractor:
        """Stay in eval mode: the backbone is frozen, its batch statistics too."""
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, return_spatial_shape: bool = False) -> Tensor | tuple[Tensor, tuple[int, int]]:
        """Patch features (B, H, W, D), and (H, W) where asked for."""
        features = self._features(images)
        if not return_spatial_shape:
            return features
        return features, (features.shape[1], features.shape[2])

    @torch.no_grad()
    def get_flatten_embeddings(self, images: Tensor) -> Tensor:
        """Patch features in a row, (B * H * W, D)."""
        return self._features(images).flatten(0, 2)

    @torch.no_grad()
    def get_image_level_features(self, images: Tensor) -> Tensor:
        """One vector per image (B, D): the mean of its patch features."""
        return self.features_with_image_level(images)[1]

    @torch.no_grad()
    def features_with_image_level(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patch features (B, H, W, D) and image features (B, D) from one backbone pass."""
        features = self._features(images)
        return features, features.mean((1, 2))

    def patch_features(self, images: Tensor) -> Tensor:
        """(B, 3, M, M) on this device, normalised -> (B, H, W, D)."""
        raise NotImplementedError

    def reads(self) -> list[Any]:
        """What a captured pass reads, as objects: others once the backbone has changed, but for writes in place."""
        return [self]

    def fingerprint(self) -> str:
        """Hash of everything the features depend on besides the image: recipe, dtype and all weights.

        Computed anew once weights are others or were written to, but not through `.data`, which leaves no trace: 250 MB
        take 0.2 s, and every task asks several times.
        """
        weights = self.backbone.state_dict()
        known = [(name, value.data_ptr(), value._version) for name, value in weights.items()]
        if self._fingerprint is None or self._fingerprint[0] != known:
            # The tensors are kept, so that no others come to lie at their addresses.
            self._fingerprint = known, self._hash(), weights
        return self._fingerprint[1]

    def keep_drawn(self) -> None:
        """Have the weights as `drawn`, before anything is computed of them."""
        self.drawn = dict(self.backbone.state_dict())

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps([type(self).__name__, self.backbone_name, self._recipe]).encode())
        for name, value in sorted(self.backbone.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy())
        return digest.hexdigest()

    def _features(self, images: Tensor) -> Tensor:
        """Images as they are given -> (B, H, W, D)."""
        return self.patch_features(self._prepared(images))

    def _prepared(self, images: Tensor) -> Tensor:
        """Normalised, on this device and in the backbone's dtype; bytes cross to the device as bytes."""
        images = images.to(self.device, non_blocking=True)
        return (normalized(images) if images.dtype == torch.uint8 else images).to(self.dtype)


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def widened(output: Tensor) -> Tensor:
    """A backbone's output in no less than fp32."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def probe_image(input_shape: tuple[int, int, int]) -> Tensor:
    """A fixed image (1, C, H, W) without symmetry, to try a backbone with."""
    channels, height, width = input_shape
    return torch.linspace(-2, 2, channels * height * width).sin().reshape(1, channels, height, width)
