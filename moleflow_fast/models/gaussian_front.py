"""A Gaussian front: features of a task to white noise, position by position, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_fast.ops.gaussian_front import FrontTensors, gaussian_front

# (n, P, D) whitened patches that are held at once while directions are found.
_HELD_BYTES = 2**30
# Of the mean variance, added to each: a channel that never varies then has a finite weight.
_RIDGE = 1e-5


class GaussianFront(nn.Module):
    """w = C_hw^(-1/2) L^(-1) (x - m_hw), an invertible affine map with a constant log-determinant by position.

    m_hw is the mean at a position, L L^T the covariance of the residuals of all positions, and C_hw the covariance of
    L^(-1) (x - m_hw) at a position, shrunk towards the identity, with `n_directions` leading directions U_hw and one
    variance for the rest. With y = L^(-1) (x - m_hw):

        w = scale_hw (y + U_hw^T (gain_hw - 1) U_hw y)

    It has no parameters: `fit` estimates it, and nothing trains it. Before that it can only be loaded.
    """

    mean: Tensor  # (H, W, D)
    whitener: Tensor  # (D, D), L^(-1)
    directions: Tensor  # (H, W, K, D), orthonormal rows; rows of zeros where there are fewer
    gain: Tensor  # (H, W, K)
    scale: Tensor  # (H, W)

    def __init__(self, channels: int, n_directions: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.n_directions = min(n_directions, channels)
        self.allocate(0, 0)

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W), (0, 0) before it is fitted."""
        return self.mean.shape[0], self.mean.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W, D) -> w (B, H, W, D).

        Raises:
            ValueError: x is of another grid than the front, or the front was never fitted.
        """
        self.require_grid(x)
        return gaussian_front(x, self.tensors())

    def inverse(self, w: Tensor) -> Tensor:
        """w (B, H, W, D) -> x (B, H, W, D)."""
        self.require_grid(w)
        y = w / self.scale[..., None]
        # (I + U^T G U)^(-1) = I - U^T (I + G U U^T)^(-1) G U, exact however nearly U is orthonormal.
        along = ((self.gain - 1)[..., None] * self.directions) @ y[..., None]  # (B, H, W, K, 1)
        y = y - (self.directions.mT @ torch.linalg.solve(self._small(), along))[..., 0]
        rows = y.reshape(-1, self.channels).T
        return torch.linalg.solve_triangular(self.whitener, rows, upper=False).T.reshape(w.shape) + self.mean

    def logdet(self) -> Tensor:
        """log |det dw/dx| by position, (H, W)."""
        along = torch.linalg.slogdet(self._small()).logabsdet
        return self.whitener.diagonal().log().sum() + self.channels * self.scale.log() + along

    def _small(self) -> Tensor:
        """I + G U U^T with G = gain - 1, (H, W, K, K): diagonal but for the rounding of U."""
        identity = torch.eye(self.n_directions).to(self.gain)
        return identity + (self.gain - 1)[..., None] * (self.directions @ self.directions.mT)

    def require_grid(self, x: Tensor) -> None:
        """Raise ValueError where x (B, H, W, D) is of another grid, or the front was never fitted."""
        if self.grid == (0, 0):
            raise ValueError("the Gaussian front was never fitted: train its task first, or load a checkpoint")
        if x.shape[1:3] != self.grid:
            raise ValueError(
                f"the Gaussian front was fitted on {self.grid[0]} x {self.grid[1]} patches and is given "
                f"{x.shape[1]} x {x.shape[2]}: use the image size and the backbone that it was fitted with"
            )

    def allocate(self, height: int, width: int) -> None:
        """Become the identity on a grid of patches."""
        like = self.whitener if "whitener" in self._buffers else torch.empty(0)
        k, d = self.n_directions, self.channels
        self.register_buffer("mean", like.new_zeros(height, width, d))
        self.register_buffer("whitener", torch.eye(d).to(like))
        self.register_buffer("directions", like.new_zeros(height, width, k, d))
        self.register_buffer("gain", like.new_ones(height, width, k))
        self.register_buffer("scale", like.new_ones(height, width))

    def tensors(self) -> FrontTensors:
        """What it was estimated as."""
        return FrontTensors(self.mean, self.whitener, self.directions, self.gain, self.scale)

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterable[Tensor]]) -> None:
        """Estimate the front; sums are fp64, so the order of images shows in the last bits of fp64 alone.

        Args:
            passes: gives all patches of a task, batches (B, H, W, D) on the front's device, each time it is called:
                twice where n H W D fp32 values fit into 1 GiB, else once more for every further GiB.

        Raises:
            ValueError: there is no image, or a value is not finite.
        """
        n, mean, residual = _first_moments(passes())
        whitener = _inverse_root(residual)
        height, width, _ = mean.shape
        self.allocate(height, width)
        self.mean.copy_(mean)
        self.whitener.copy_(whitener)
        rows = max(1, _HELD_BYTES // (4 * n * width * self.channels))
        for first in range(0, height, rows) if self.n_directions else ():
            self._fit_directions(slice(first, min(first + rows, height)), n, passes())

    def _fit_directions(self, rows: slice, n: int, patches: Iterable[Tensor]) -> None:
        mean = self.mean[rows]
        held = torch.cat([(x[:, rows] - mean) @ self.whitener.T for x in patches])  # (n, h, W, D)
        for at, white in _by_position(held):
            directions, gain, scale = _leading(white, n, self.n_directions)
            self.directions[rows].flatten(0, 1)[at] = directions
            self.gain[rows].flatten(0, 1)[at] = gain
            self.scale[rows].flatten(0, 1)[at] = scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        mean = state_dict.get(prefix + "mean")
        if mean is not None and mean.dim() == 3 and mean.shape[:2] != self.grid:
            self.allocate(*mean.shape[:2])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _first_moments(patches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Number of images, mean by position (H, W, D), and covariance of residuals (D, D), fp64.

    With n images the covariance of all patches about their common mean has the weight 1 / n^2: one image has no
    residuals, and eight have enough.
    """
    n, total, squares = 0, None, None
    for x in patches:
        wide = x.double()
        rows = wide.flatten(0, 2)
        n += len(x)
        total = wide.sum(0) if total is None else total + wide.sum(0)
        squares = rows.T @ rows if squares is None else squares + rows.T @ rows
    if total is None or squares is None:
        raise ValueError("a Gaussian front needs at least one image")
    mean = total / n
    positions = mean.flatten(0, 1)
    count, common = len(positions), positions.mean(0)
    everything = squares / (n * count) - torch.outer(common, common)
    within = (squares - n * positions.T @ positions) / (max(n - 1, 1) * count)
    covariance = within + (everything - within) / n**2
    if not bool(covariance.isfinite().all()):
        raise ValueError("features with values that are not finite have no Gaussian front: look at the images")
    return n, mean, covariance


def _inverse_root(covariance: Tensor) -> Tensor:
    """L^(-1) of covariance = L L^T (D, D), lower triangular; the identity where nothing varies."""
    spread = covariance.diagonal().clamp_min(0).mean()
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    if float(spread) <= torch.finfo(torch.float32).tiny:
        return identity
    factor = torch.linalg.cholesky(covariance + _RIDGE * spread * identity)
    return torch.linalg.solve_triangular(factor, identity, upper=False)


def _by_position(held: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some positions at a time of patches (n, h, W, D): which, and their patches (P, n, D)."""
    rows = held.flatten(1, 2)
    for first in range(0, rows.shape[1], 64):
        at = slice(first, first + 64)
        yield at, rows[:, at].transpose(0, 1).contiguous()


def _leading(white: Tensor, n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (P, K, D), gains (P, K) and scales (P,) from whitened patches (P, n, D).

    The covariance S of a position is shrunk: C = (1 - a) S + a I with a = D / (n + D).
    """
    d = white.shape[-1]
    keep = min(k, n, d)
    gram = n < d  # the smaller of the two products has the same eigenvalues
    product = white @ white.transpose(1, 2) if gram else white.transpose(1, 2) @ white
    values, vectors = torch.linalg.eigh(product)
    values, vectors = values[:, -keep:].clamp_min(0), vectors[..., -keep:]  # ascending
    if gram:
        vectors = white.transpose(1, 2) @ vectors / values.sqrt()[:, None]
    there = values > 1e-6 * n
    directions = white.new_zeros(len(white), k, d)
    directions[:, :keep] = torch.where(there[..., None], vectors.transpose(1, 2), 0.0)
    values = torch.where(there, values, 0.0) / max(n - 1, 1)
    a = d / (n + d)
    left = (white.square().sum((1, 2)) / max(n - 1, 1) - values.sum(1)).clamp_min(0)
    rest = a + (1 - a) * left / max(d - keep, 1) if keep < d else torch.ones_like(left)
    gain = white.new_ones(len(white), k)
    gain[:, :keep] = torch.where(there, (rest[:, None] / (a + (1 - a) * values)).sqrt(), 1.0)
    return directions, gain, rest.rsqrt()
