"""The single operations that are timed: their inputs and their work at any size.

Ours is the compiled function on a CPU, the kernel on a GPU. An operation lives in one module beside its definition,
`<name>_reference`; to add one is to add a line to OPERATIONS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from counts import FLOAT, FeatureMap, Flow, Work, patch_pooling, pixel_maps, smoothing
from device import DEVICE
from torch import Tensor

from moleflow_fast.backend import use_backend
from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

SIGMA = 4.0
PROTOTYPES = 15
LOSS = {"tail_weight": None, "tail_top_k_ratio": 0.05, "lambda_logdet": 3e-5}


class Shape(NamedTuple):
    """A batch of patch features; scores and maps are of five such batches, the test images of a class."""

    images: int
    height: int
    width: int
    dim: int

    @property
    def tokens(self) -> int:
        return self.images * self.height * self.width

    @property
    def tested(self) -> int:
        return 5 * self.images

    @property
    def pixels(self) -> int:
        """A side of a pixel map."""
        return 8 * self.height

    @property
    def features(self) -> list[FeatureMap]:
        """Of an image, as layer2 and layer3 of WideResNet-50-2 give them."""
        large = FeatureMap(2 * self.dim // 3, self.height, self.width)
        return [large, FeatureMap(4 * self.dim // 3, self.height // 2, self.width // 2)]


BATCH = Shape(16, 28, 28, 768)


@dataclass(frozen=True)
class Operation:
    """`inputs` makes the positional arguments; with `backward` the floating tensors among them get gradients.

    Its multiply-adds are of fp32 numbers. `on_gpu` says whether Triton has a kernel for it.
    """

    module: str
    name: str
    inputs: Callable[[Shape], tuple]
    work: Callable[[Shape], Work]
    options: dict[str, Any] = field(default_factory=dict)
    backward: bool = False
    on_gpu: bool = True

    @property
    def title(self) -> str:
        mode = f" {self.options['mode']}" if "mode" in self.options else ""
        return f"{self.name}{mode}, {'forward and backward' if self.backward else 'forward'}"

    def function(self, suffix: str = "") -> Callable[..., Any]:
        return getattr(importlib.import_module(f"moleflow_fast.{self.module}"), self.name + suffix)

    def caller(self, shape: Shape, backend: str, suffix: str = "") -> Callable[[], tuple[Tensor, ...]]:
        """The operation on inputs of its own, forward and where it has one backward; returns results and gradients."""
        function, inputs = self.function(suffix), self.inputs(shape)
        leaves = [x.requires_grad_() for x in inputs if isinstance(x, Tensor)] if self.backward else []

        def call() -> tuple[Tensor, ...]:
            with use_backend(backend):
                result = function(*inputs, **self.options)
                results = result if isinstance(result, tuple) else (result,)
                return (*results, *(torch.autograd.grad(sum(r.sum() for r in results), leaves) if leaves else ()))

        return call


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def _tokens(shape: Shape) -> tuple[Tensor]:
    return (_random(*shape),)


def _latent(shape: Shape) -> tuple[Tensor, Tensor]:
    return _random(*shape), _random(*shape[:3])


def _scores(shape: Shape) -> tuple[Tensor]:
    return (_random(shape.tested, shape.height, shape.width),)


def _features(shape: Shape) -> tuple[list[Tensor], int, tuple[int, int]]:
    """Channels last as they come out of the backbone."""
    maps = [_random(shape.images, m.channels, m.height, m.width) for m in shape.features]
    return [m.to(memory_format=torch.channels_last) for m in maps], shape.dim, (shape.height, shape.width)


def _traffic(shape: Shape, latents: float, maps: int = 0) -> Work:
    """So many passes over (B, H, W, D) and over (B, H, W), fp32."""
    return Work(0, FLOAT * shape.tokens * (latents * shape.dim + maps))


def _depthwise_work(shape: Shape) -> Work:
    """Forward, gradients of x and of the taps; x and y, then x, dy and dx."""
    return Work(3 * 9 * shape.dim * shape.tokens, 0) + _traffic(shape, latents=5)


def _scores_work(shape: Shape) -> Work:
    return Work(0, FLOAT * shape.tested * (shape.height * shape.width + 1))


def _image_score(**options: Any) -> Operation:
    return Operation("ops.image_score", "image_score", _scores, _scores_work, options)


OPERATIONS = (
    Operation(
        "ops.depthwise",
        "depthwise",
        lambda s: (*_tokens(s), _random(9, s.dim), _random(s.dim)),
        _depthwise_work,
        backward=True,
    ),
    Operation(
        "ops.whitening",
        "whitening",
        lambda s: (*_tokens(s), _random(s.dim), _random(s.dim)),
        lambda s: _traffic(s, latents=5),  # x, y; x, dy, dx
        backward=True,
    ),
    Operation("ops.patch_pool", "patch_pool", _features, lambda s: patch_pooling(s.images, s.features, s.dim)),
    Operation("ops.density", "patch_nll", _latent, lambda s: _traffic(s, latents=1, maps=2)),
    Operation(
        "ops.density",
        "density_loss",
        _latent,
        lambda s: _traffic(s, latents=3, maps=3),  # z, logdet; z, dz, logdet, dlogdet
        LOSS,
        backward=True,
    ),
    _image_score(mode="percentile"),
    _image_score(mode="top_k", top_k=3),
    _image_score(mode="mean"),
    _image_score(mode="spatial_cluster", top_k=3),
    Operation(
        "ops.pixel_map",
        "pixel_map",
        lambda s: (*_scores(s), s.pixels, SIGMA),
        lambda s: pixel_maps(s.tested, (s.height, s.width), s.pixels, SIGMA),
    ),
    Operation(
        "ops.gaussian_smooth",
        "gaussian_smooth",
        lambda s: (_random(s.tested, s.pixels, s.pixels), SIGMA),
        lambda s: smoothing(s.tested, s.pixels, SIGMA),
        on_gpu=False,
    ),
)


def distances_title(images: int) -> str:
    return f"Mahalanobis distances to {PROTOTYPES} prototypes, {images} image{'s' * (images > 1)}"


def optimizer_title(task_id: int, parameters: int) -> str:
    return f"clipping and AdamP, {'later' if task_id else 'first'} task: {parameters / 1e6:.1f} M"


def trained_parameters(flow: Flow, task_id: int) -> int:
    """How many numbers the optimizer moves in the first task or in a later one."""
    config = AblationConfig(dia_n_blocks=flow.dia_blocks)
    with torch.device("meta"):
        model = MoLESpatialAwareNF(flow.dim, flow.blocks, lora_rank=flow.rank, device="meta", ablation_config=config)
        for task in range(task_id + 1):
            model.add_task(task)
    return sum(parameter.numel() for parameter in model.get_trainable_params(task_id))
