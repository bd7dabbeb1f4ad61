"""The published arrangement of the computation, in plain PyTorch: what the benchmarks compare with.

Written from the method's description, not the authors' code. Same parameters and, to rounding, same results as ours
(tests/bench/test_published.py); only how the work is laid out differs:

- a LoRA layer is three products, a permutation a dense D x D product;
- 3x3 patches are copied out (9 times the map), resized as C*9 channels, then pooled to D;
- the backbone runs twice per test image: for the router, then for the patch features; test batches of 8;
- statistics of the first task are updated token by token; the optimizer asks every matrix for its projection;
- maps are smoothed one by one with scipy, metrics are scikit-learn's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from published_adamp import AdamP
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from moleflow_fast.backend import use_backend
from moleflow_fast.data.normalization import Normalization
from moleflow_fast.extractors import create_backbone
from moleflow_fast.extractors.base import probe_image
from moleflow_fast.extractors.capture import LayerCapture, drop_unused_tail
from moleflow_fast.extractors.cnn_extractor import CNNPatchCoreExtractor
from moleflow_fast.models.coupling import AllInOneBlock
from moleflow_fast.models.lora_linear import LoRALinear
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.models.routing import PrototypeRouter

TEST_BATCH = 8
CLIP_NORM = 0.5
LARGEST_LOSS = 1e8


# The flow


class PublishedLoRALinear(LoRALinear):
    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.base_linear.weight, self.base_linear.bias)
        key = str(self.active_task)
        if key in self.lora_A:
            y = y + self.scaling * F.linear(F.linear(x, self.lora_A[key]), self.lora_B[key])
        if key in self.task_biases:
            y = y + self.task_biases[key]
        return y


class PublishedBlock(AllInOneBlock):
    w_perm: Tensor  # (D, D)

    def forward(self, x: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
        if reverse:
            raise NotImplementedError("the published arrangement is here for the forward map only")
        x1, x2 = x.split(self.split, dim=-1)
        s, t = (0.1 * self.subnet(x1)).split(self.split[1], dim=-1)
        log_scale = self.clamp_alpha * torch.tanh(s)
        scale = self.scale()
        x = torch.cat([x1, x2 * torch.exp(log_scale) + t], dim=-1)
        y = F.linear(x * scale + self.global_offset[0], self.w_perm)
        return y, log_scale.sum(-1) + scale.log().sum()


class PublishedFlow(MoLESpatialAwareNF):
    def forward(self, x: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
        if reverse:
            raise NotImplementedError("the published arrangement is here for the forward map only")
        key = str(self.current_task_id)
        with use_backend("eager"):
            x = self.condition(x, self.current_task_id)
            logdet = x.new_zeros(x.shape[:-1])
            for block in [*self.flow.module_list, *self._dia_blocks(key)]:
                x, block_logdet = block(x)
                logdet = logdet + block_logdet
        return x, logdet

    def _dia_blocks(self, key: str) -> Sequence[torch.nn.Module]:
        return list(self.dia_adapters[key].coupling_blocks) if key in self.dia_adapters else []


def published_model(model: MoLESpatialAwareNF) -> PublishedFlow:
    """A copy of `model`, same parameters and methods, whose forward is the published arrangement.

    Not for `use_task_separated`, spectral norm or Gaussian fronts, which it does not know.
    """
    flow = copy.deepcopy(model)
    flow.__class__ = PublishedFlow
    for module in flow.modules():
        if type(module) is LoRALinear:
            module.__class__ = PublishedLoRALinear
        if type(module) is AllInOneBlock:
            module.__class__ = PublishedBlock
            matrix = torch.eye(len(module.perm_index), device=module.perm_index.device)[module.perm_index]
            module.register_buffer("w_perm", matrix.to(module.global_scale.dtype), persistent=False)
    return flow  # type: ignore[return-value]


# A training step


class TokenStatistics:
    """Running mean and sum of squared deviations per channel, one token after another (Welford)."""

    def __init__(self, channels: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(channels, device=device)
        self.squares = torch.zeros(channels, device=device)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        for token in features.detach().reshape(-1, features.shape[-1]):
            self.count += 1
            delta = token - self.mean
            self.mean += delta / self.count
            self.squares += delta * (token - self.mean)


class PublishedTraining:
    """The optimizer steps of one task; the active task of `model` is `task_id`."""

    def __init__(self, model: PublishedFlow, task_id: int, lr: float, weight_decay: float = 0.01) -> None:
        self.model = model
        self.task_id = task_id
        self.params = model.get_trainable_params(task_id)
        self.optimizer = AdamP(self.params, lr=lr, weight_decay=weight_decay)
        self.positions = PositionalEmbeddingGenerator(model.device)
        self.statistics = TokenStatistics(model.embed_dim, model.device)

    def step(self, patches: Tensor) -> float:
        """One step on patches (B, H, W, D); the loss, NaN if the batch was skipped."""
        x = self.positions(tuple(patches.shape[1:3]), patches)
        if self.task_id == 0:
            self.statistics.update(x)
        self.optimizer.zero_grad()
        z, logdet = self.model(x)
        nll = 0.5 * (z**2).sum(-1) + 0.5 * z.shape[-1] * math.log(2 * math.pi) - logdet
        loss = nll.flatten(1).sum(1).mean() + self.model.config.lambda_logdet * (logdet**2).mean()
        if not math.isfinite(loss.item()) or loss.item() > LARGEST_LOSS:
            return math.nan
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, CLIP_NORM)
        self.optimizer.step()
        return loss.item()


# Inference


class PublishedExtractor:
    """Patch features (B, H, W, D) of normalised images (B, 3, S, S), by 3x3 patches copied out."""

    def __init__(
        self, backbone: nn.Module, layers: Sequence[str], embed_dim: int, size: int, device: torch.device
    ) -> None:
        self.embed_dim = embed_dim
        self._capture = LayerCapture(backbone, layers)
        with torch.no_grad():
            drop_unused_tail(self._capture, probe_image((3, size, size)))
        backbone.to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        maps = self._capture(images)
        grid = maps[0].shape[2:]
        layers = []
        for m in maps:
            patches = F.unfold(m, 3, padding=1)  # (B, C*9, h*w)
            patches = patches.unflatten(2, m.shape[2:])  # (B, C*9, h, w)
            patches = F.interpolate(patches, grid, mode="bilinear", align_corners=False)
            layers.append(F.adaptive_avg_pool1d(patches.flatten(2).transpose(1, 2), self.embed_dim))
        return torch.stack(layers).mean(0).unflatten(1, grid)

    def get_image_level_features(self, images: Tensor) -> Tensor:
        return self(images).mean((1, 2))


def published_extractor(extractor: CNNPatchCoreExtractor, size: int) -> PublishedExtractor:
    """One with the same random weights, batch norms of their own, in torch's default memory format."""
    backbone, _ = create_backbone(extractor.backbone_name, pretrained=False, input_shape=(3, size, size))
    device = next(extractor.parameters()).device
    return PublishedExtractor(backbone.requires_grad_(False), extractor.layers, extractor.embed_dim, size, device)


class PublishedInference:
    """Images to patch maps, scores and task ids."""

    def __init__(self, extractor: PublishedExtractor, model: PublishedFlow, router: PrototypeRouter) -> None:
        self.normalize = Normalization().to(model.device)
        self.extractor = extractor
        self.model = model
        self.prototypes = router.prototypes
        self.positions = PositionalEmbeddingGenerator(model.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images (B, 3, S, S), uint8 -> maps (B, H, W), scores (B,), task ids (B,)."""
        self.model.eval()
        batches = [self._batch(batch) for batch in images.split(TEST_BATCH)]
        maps, ids = (torch.cat(column) for column in zip(*batches, strict=True))
        return maps, published_scores(maps), ids

    def _batch(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = self.normalize(pixels)
        ids = self._route(self.extractor.get_image_level_features(images))
        patches = self.extractor(images)
        maps = patches.new_empty(patches.shape[:-1])
        for task_id in ids.unique().tolist():
            self.model.set_active_task(task_id)
            x = self.positions(tuple(patches.shape[1:3]), patches[ids == task_id])
            maps[ids == task_id] = -self.model.log_prob_patch(x)
        return maps, ids

    def _route(self, features: Tensor) -> Tensor:
        distances = []
        for prototype in self.prototypes.values():
            difference = features - prototype.mean
            distances.append(((difference @ prototype.precision) * difference).sum(-1).clamp_min(0).sqrt())
        return torch.tensor(list(self.prototypes), device=features.device)[torch.stack(distances, dim=1).argmin(1)]


# Evaluation


class PublishedResult(NamedTuple):
    image_auroc: float
    image_ap: float
    pixel_auroc: float
    pixel_ap: float


def published_evaluation(patch_maps: Tensor, labels: Tensor, masks: Tensor, sigma: float = 4.0) -> PublishedResult:
    """Metrics of one class from patch maps (N, H, W), labels (N,) and masks (N, S, S)."""
    pixels = published_pixel_maps(patch_maps, masks.shape[-1], sigma)
    scores = published_scores(patch_maps)
    return PublishedResult(*published_ranking(scores, labels), *published_ranking(torch.from_numpy(pixels), masks))


def published_scores(maps: Tensor, percentile: float = 0.99) -> Tensor:
    """Image scores (B,) of patch maps (B, H, W)."""
    return torch.quantile(maps.flatten(1), percentile, dim=1)


def published_pixel_maps(patch_maps: Tensor, size: int, sigma: float) -> np.ndarray:
    """(N, S, S): each batch of 8 resized, each map smoothed by itself."""
    maps: list[np.ndarray] = []
    for batch in patch_maps.split(TEST_BATCH):
        resized = F.interpolate(batch[:, None], (size, size), mode="bilinear", align_corners=True)[:, 0]
        maps.extend(gaussian_filter(m, sigma) for m in resized.numpy())
    return np.stack(maps)


def published_ranking(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """AUROC and average precision."""
    y, x = labels.numpy().ravel(), scores.numpy().ravel()
    return float(roc_auc_score(y, x)), float(average_precision_score(y, x))
