"""A detector as one module: bytes of pictures in, what the detector says about them out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moleflow_fast.backend import use_backend
from moleflow_fast.data.normalization import Normalization
from moleflow_fast.detector.calibration import CLEARLY_NEARER, LEVEL, TaskCalibration
from moleflow_fast.detector.detector import Detector
from moleflow_fast.detector.thresholds import Limit
from moleflow_fast.evaluation.scorer import bounded
from moleflow_fast.export.flow import FlowOfAllTasks
from moleflow_fast.export.scores import ImageScores
from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.ops.image_score import rank_non_finite_as_anomalous
from moleflow_fast.ops.mahalanobis import GaussianStack, SharedGaussians
from moleflow_fast.ops.pixel_map import axis_matrix
from moleflow_fast.run.run import Run

INPUT = "images"
OUTPUTS = ("score", "calibrated", "task_id", "distances", "label", "patch_map", "pixel_map")
LABELS = ("normal", "defective", "unknown")
"""What the numbers in `label` mean."""


class DetectorProgram(nn.Module):
    """images (B, S, S, 3) of bytes, resized and cropped -> `OUTPUTS`, by name:

    score, calibrated (B,); task_id, label (B,) int64; distances (B, T); patch_map (B, h, w); pixel_map (B, M, M).

    Args:
        run: trained, on the CPU, with its backbone in fp32.
        detector: of this run: what is normal, and the limits of defective images.
    """

    task_ids: Tensor
    positions: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, run: Run, detector: Detector) -> None:
        super().__init__()
        moleflow, options = run.moleflow, run.options
        tasks = list(moleflow.router.prototypes)
        self.extractor = run.extractor
        self.side = options.img_size
        self.normalize = Normalization()
        self.register_buffer("task_ids", torch.tensor(tasks))
        grid = self._grid()
        positions = torch.zeros(1, *grid, moleflow.flow.embed_dim)
        self.register_buffer("positions", moleflow.add_positions(positions))
        self.distances = distances_of(moleflow.router)
        self.flow = FlowOfAllTasks(moleflow.flow, tasks)
        self.scores = ImageScores(moleflow.config, grid)
        self.verdicts = Verdicts([detector.calibration.tasks[t] for t in tasks], [detector.limits[t] for t in tasks])
        down, across = (self._axis(patches, run) for patches in grid)
        self.register_buffer("rows", down.T.contiguous())  # (M, h)
        self.register_buffer("columns", across)  # (w, M)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See the class."""
        patches = self._patches(images)
        distances = self.distances(patches.mean((1, 2)))
        places = distances.nan_to_num(nan=torch.inf).argmin(1)
        maps = rank_non_finite_as_anomalous(self.flow(patches + self.positions, places))
        score, distances, patch_map = (bounded(v) for v in (self.scores(maps), distances, maps))
        calibrated, label = self.verdicts(score, distances, places)
        pixel_map = self.rows @ patch_map @ self.columns
        task_id = self.task_ids[places]
        values = (score, calibrated, task_id, distances, label, patch_map, pixel_map)
        return dict(zip(OUTPUTS, values, strict=True))

    def _patches(self, images: Tensor) -> Tensor:
        """(B, H, W, D)."""
        return self.extractor.patch_features(self.normalize(images.permute(0, 3, 1, 2)))

    @torch.no_grad()
    def _grid(self) -> tuple[int, int]:
        """Of the patches.

        Running once also makes what the extractor keeps from its first call on, which must not be made in a trace.
        """
        with use_backend("eager"):
            rows, columns = self._patches(torch.zeros(1, self.side, self.side, 3, dtype=torch.uint8)).shape[1:3]
        return rows, columns

    @staticmethod
    def _axis(patches: int, run: Run) -> Tensor:
        options = run.options
        return axis_matrix(
            patches, options.mask_size, options.score_smooth_sigma, options.interp_mode, torch.float32
        ).clone()


def distances_of(router: PrototypeRouter) -> nn.Module:
    """Of image features (B, D) to the prototype of each task (B, T), as `PrototypeRouter.distances` has them."""
    gaussians = router.gaussians()
    if isinstance(gaussians, SharedGaussians):
        return WhitenedDistances(gaussians)
    means = torch.stack([p.mean for p in router.prototypes.values()])
    return Distances(means, gaussians)


class Distances(nn.Module):
    """To means (T, D): Euclidean, or each with a precision of its own."""

    means: Tensor
    triangles: Tensor

    def __init__(self, means: Tensor, gaussians: GaussianStack | None) -> None:
        super().__init__()
        self.register_buffer("means", means[:, None])  # (T, 1, D)
        self.is_mahalanobis = gaussians is not None
        if gaussians is not None:
            self.is_factored = bool(gaussians.factored)
            self.register_buffer("triangles", _whole(gaussians.blocks))  # (T, D, D)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, D) -> (B, T)."""
        difference = features - self.means  # (T, B, D)
        if not self.is_mahalanobis:
            return difference.square().sum(-1).sqrt().T
        product = torch.bmm(difference, self.triangles)
        squares = (product * (product if self.is_factored else difference)).sum(-1)
        return squares.clamp_min(0).sqrt().T


class WhitenedDistances(nn.Module):
    """To Gaussians of one covariance."""

    means: Tensor
    centre: Tensor
    whitening: Tensor

    def __init__(self, gaussians: SharedGaussians) -> None:
        super().__init__()
        for name, tensor in gaussians._asdict().items():
            self.register_buffer(name, tensor)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, D) -> (B, T)."""
        whitened = (features - self.centre) @ self.whitening
        return (whitened[:, None] - self.means).square().sum(-1).sqrt()


class Verdicts(nn.Module):
    """Calibrated scores and labels: `TaskCalibration` and the detector's limits, for a batch."""

    spreads: Tensor
    thresholds: Tensor
    defective_above: Tensor
    limits: Tensor
    far_limits: Tensor

    def __init__(self, tasks: Sequence[TaskCalibration], defective: Sequence[Limit]) -> None:
        super().__init__()
        self.register_buffer("defective_above", torch.tensor([limit.score for limit in defective], dtype=torch.float32))
        self.register_buffer("spreads", torch.tensor([t.spread for t in tasks], dtype=torch.float32))
        self.register_buffer("thresholds", torch.tensor([t.threshold for t in tasks], dtype=torch.float32))
        self.register_buffer("limits", torch.tensor([t.distance_limit for t in tasks], dtype=torch.float32))
        self.compares_distances = any(t.compares_distances for t in tasks)
        self.register_buffer("far_limits", torch.tensor([t.far_limit for t in tasks], dtype=torch.float32))

    def forward(self, score: Tensor, distances: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """score (B,), distances (B, T), places (B,) -> calibrated (B,), label (B,) int64; see `LABELS`."""
        z = bounded((score - self.thresholds[places]) / self.spreads[places])
        calibrated = LEVEL + z / (2 * (1 + z.abs()))
        defective = (score > self.defective_above[places]).long()
        return calibrated, torch.where(self._known(distances, places), defective, LABELS.index("unknown"))

    def _known(self, distances: Tensor, places: Tensor) -> Tensor:
        """(B,) bool."""
        distance = distances.gather(1, places[:, None])[:, 0]
        known = distance <= self.limits[places]
        if not self.compares_distances:
            return known
        others = distances.scatter(1, places[:, None], torch.inf).amin(1)
        return known | ((distance <= self.far_limits[places]) & (distance <= CLEARLY_NEARER * others))


def _whole(blocks: Sequence[Tensor]) -> Tensor:
    """Columns of lower triangles, from the diagonal down, with the zeros above it."""
    dim = blocks[0].shape[1]
    return torch.cat([torch.nn.functional.pad(b, (0, 0, dim - b.shape[1], 0)) for b in blocks], dim=-1)
