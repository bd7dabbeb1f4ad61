"""Arithmetic and memory traffic that the method cannot do without, and what the published arrangement does.

Multiply-adds are those of products and convolutions; elementwise work is left out. "Needed" counts assume the cheapest
known plan: the LoRA product merged into the weight once a step, permutations as indices, gradients of A and B through
rank-r products (or from the dense weight gradient where the base trains too).

Bytes are compulsory only: inputs, outputs and weights once, and in training every value that the backward pass needs
from the forward pass written once and read once. All are fp32 but what products read, `operand` bytes a value.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4
GAUSSIAN_RADIUS = 4  # standard deviations


@dataclass(frozen=True)
class Work:
    """Multiply-adds and bytes."""

    macs: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.macs * times, self.bytes * times)


@dataclass(frozen=True)
class Flow:
    """Sizes of a flow with the default subnets (scale context) and mixer."""

    dim: int  # D
    blocks: int
    dia_blocks: int
    rank: int
    kernel: int = 3  # of the context convolutions and of the mixer
    dia_hidden_ratio: float = 0.5

    @property
    def driver(self) -> int:
        """Width of the half that a coupling reads."""
        return self.dim - self.dim // 2

    @property
    def driven(self) -> int:
        """Width of the half that it changes."""
        return self.dim // 2

    @property
    def lora_layers(self) -> list[tuple[int, int]]:
        """(in, out) of s_layer1, t_layer1, s_layer2, t_layer2 of a block."""
        hidden = 2 * self.driver
        return [(2 * self.driver, hidden), (self.driver, hidden), (hidden, self.driven), (hidden, self.driven)]

    @property
    def dia_hidden(self) -> int:
        return int(self.dim * self.dia_hidden_ratio)

    # Multiply-adds a token, whole flow

    def base_macs(self) -> int:
        """Products of the base weights."""
        return self.blocks * sum(i * o for i, o in self.lora_layers)

    def lora_macs(self) -> int:
        """One pass through A and B as products of their own: r (in + out) a layer."""
        return self.blocks * sum(self.rank * (i + o) for i, o in self.lora_layers)

    def dia_macs(self) -> int:
        """s_net and t_net of every DIA block; odd widths: the halves exchange roles at every second block."""
        total = 0
        for block in range(self.dia_blocks):
            widths = (self.dim // 2, self.dim - self.dim // 2)
            driver, driven = widths[::-1] if block % 2 else widths
            total += 2 * self.dia_hidden * (driver + self.dia_hidden + driven)
        return total

    def permutation_macs(self) -> int:
        """Dense D x D products: the published arrangement only."""
        return self.blocks * self.dim**2

    def depthwise_macs(self) -> int:
        """Context convolution of every block, and the mixer."""
        return self.kernel**2 * (self.blocks * self.driver + self.dim)

    # Work on `tokens` patches

    def inference(self, tokens: int, operand: int = FLOAT) -> Work:
        """Forward without gradients, merged weights at hand: reads x, writes -log p."""
        macs = self.base_macs() + self.dia_macs() + self.depthwise_macs()
        weights = self.base_macs() + self.dia_macs()  # as many as multiply-adds a token
        return Work(macs * tokens, operand * weights + FLOAT * tokens * (self.dim + 1))

    def training_step(self, tokens: int, base_trains: bool, operand: int = FLOAT) -> Work:
        """Forward, backward and the weights of one step; `base_trains` for the first task."""
        base, dia, depthwise = self.base_macs(), self.dia_macs(), self.depthwise_macs()
        # forward; input gradient; weight gradients, where a later task needs those of A and B alone
        per_token = 3 * base if base_trains else 2 * base + 2 * self.lora_macs()
        per_token += 3 * dia + (3 if base_trains else 2) * depthwise
        # merging is r in out a layer; with the base, dA = B^T dW and dB = dW A^T are as much again, each
        per_step = self.rank * base * (3 if base_trains else 1)
        hidden = self.blocks * 4 * self.driver + self.dia_blocks * 4 * self.dia_hidden
        driven = (self.blocks + self.dia_blocks) * 2 * self.driven  # x2 and the log-scale
        # weights read by forward and backward; of trained ones gradient, moments and value are written and read
        weights = operand * 2 * (base + dia) + FLOAT * 8 * self._trained(base_trains)
        kept = operand * hidden + FLOAT * driven
        return Work(per_token * tokens + per_step, weights + tokens * (FLOAT * self.dim + 2 * kept))

    def published_inference_macs(self, tokens: int) -> int:
        """Products of the published arrangement, depthwise convolutions included."""
        forward = self.base_macs() + self.lora_macs() + self.permutation_macs() + self.dia_macs()
        return tokens * (forward + self.depthwise_macs())

    def published_training_macs(self, tokens: int, base_trains: bool) -> int:
        """One step: the dense permutation forward and back, LoRA forward, its input and its weight gradients."""
        base = self.base_macs() * (3 if base_trains else 2)
        depthwise = self.depthwise_macs() * (3 if base_trains else 2)
        return tokens * (base + 3 * self.lora_macs() + 2 * self.permutation_macs() + 3 * self.dia_macs() + depthwise)

    def _trained(self, base_trains: bool) -> int:
        """Parameters that the optimizer moves, biases left out."""
        return self.lora_macs() + self.dia_macs() + (self.base_macs() if base_trains else 0)


@dataclass(frozen=True)
class FeatureMap:
    channels: int
    height: int
    width: int


def patch_pooling(images: int, maps: list[FeatureMap], dim: int, patch: int = 3) -> Work:
    """3x3 patches of maps pooled to `dim` at each map's own size, resized (4 taps) to the first and averaged."""
    grid = maps[0].height * maps[0].width
    work = Work(0, FLOAT * grid * dim)
    for m in maps:
        places = m.height * m.width
        resize = 0 if places == grid else 4 * dim * grid
        work += Work(places * pooling_taps(m.channels * patch**2, dim) + resize, FLOAT * m.channels * places)
    return work * images


def pooling_taps(inputs: int, outputs: int) -> int:
    """Values read by adaptive average pooling of `inputs` values to `outputs`: neighbouring windows may overlap."""
    return sum(-(-(i + 1) * inputs // outputs) - i * inputs // outputs for i in range(outputs))


def pixel_maps(images: int, grid: tuple[int, int], size: int, sigma: float) -> Work:
    """Patch maps resized (bilinear) to size x size and smoothed by two passes; one read, one write.

    Both are linear: a matrix an axis does them at once, where that is cheaper.
    """
    (height, width), pixels = grid, size * size
    matrices = height * width * size + height * pixels
    macs = min(matrices, 4 * pixels + smoothing(1, size, sigma).macs)
    return Work(macs, FLOAT * (height * width + pixels)) * images


def smoothing(images: int, size: int, sigma: float) -> Work:
    """A Gaussian in two passes over maps of size x size, one read and one write."""
    taps = 2 * int(GAUSSIAN_RADIUS * sigma + 0.5) + 1
    return Work(2 * taps, FLOAT * 2) * (images * size * size)


def mahalanobis(images: int, prototypes: int, dim: int) -> Work:
    """Distances of image features to all prototypes, through a triangle of each."""
    triangle = dim * (dim + 1) // 2
    numbers = images * (dim + prototypes) + prototypes * (triangle + dim)
    return Work(images * prototypes * triangle, FLOAT * numbers)


def gaussian_front(images: int, tasks: int, positions: int, directions: int, dim: int) -> Work:
    """Whitening by a triangle and the directions of each position, of images of `tasks` tasks."""
    triangle, tokens, along = dim * (dim + 1) // 2, images * positions, positions * directions * (dim + 1)
    numbers = 2 * tokens * dim + tasks * (triangle + along + positions * (dim + 1)) + positions * dim
    return Work(tokens * (triangle + 2 * directions * dim), FLOAT * numbers)


def adamp(parameters: int) -> Work:
    """A step: value, gradient and two moments are read, all but the gradient written."""
    return Work(0, FLOAT * 7 * parameters)


def ranking(scores: int) -> Work:
    """Scores and one-byte labels read once and sorted: one write and one read more, 5 bytes each."""
    return Work(0, 3 * (FLOAT + 1) * scores)
