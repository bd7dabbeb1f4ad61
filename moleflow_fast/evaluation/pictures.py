"""Pictures of a run: anomaly heat maps and the routing confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from moleflow_fast.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from moleflow_fast.files import replacing

_PLAIN: dict[str, Any] = {"parse_math": False}  # names of classes and defects, which may hold dollar signs


def choose_images(labels: Tensor, scores: Tensor, count: int) -> list[int]:
    """Indices to look at: two thirds defective spread over their score range, the rest normal, highest last.

    Where nothing is defective all are normal.
    """
    defective = _spread((labels == 1).nonzero().flatten().tolist(), scores, count - count // 3)
    normal = _spread((labels == 0).nonzero().flatten().tolist(), scores, count // 3 if defective else count)
    return defective + normal


def heatmap_figure(
    path: Path,
    title: str,
    images: Sequence[Tensor],
    masks: Sequence[Tensor] | None,
    maps: Tensor,
    captions: Sequence[str],
    colour_range: tuple[float, float],
) -> None:
    """One row per image: the image with its true defect outlined, and the map over it, one colour scale for all.

    Args:
        images: normalised images (3, S, S).
        masks: (S, S) each, or None for a class without masks.
        maps: smoothed maps (n, S, S).
        captions: e.g. defect type and image score.
        colour_range: scores drawn as the coldest and the hottest colour.
    """
    rows = len(images)
    figure, axes = plt.subplots(2, rows, figsize=(2.2 * rows, 4.9), squeeze=False)
    for i in range(rows):
        picture = np.clip(images[i].permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN, 0, 1)
        size = picture.shape[0]
        extent = (0, size, size, 0)
        axes[0, i].imshow(picture, extent=extent)
        if masks is not None and bool(masks[i].any()):
            axes[0, i].contour(masks[i].numpy(), levels=[0.5], colors="lime", linewidths=1.0, extent=(0, size, 0, size))
        axes[1, i].imshow(picture.mean(-1), cmap="gray", extent=extent)
        overlay = axes[1, i].imshow(
            maps[i].numpy(), cmap="turbo", alpha=0.6, vmin=colour_range[0], vmax=colour_range[1], extent=extent
        )
        axes[0, i].set_title(captions[i], fontsize=7, **_PLAIN)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=9, **_PLAIN)
    figure.colorbar(overlay, ax=axes, fraction=0.015, pad=0.01).ax.tick_params(labelsize=6)
    _save(figure, path)


def confusion_figure(path: Path, confusion: Tensor, tasks: Sequence[Sequence[str]]) -> None:
    """Routing confusion matrix: rows true tasks, columns routed ones, with counts."""
    names = [", ".join(classes) if len(classes) < 3 else f"task {t}" for t, classes in enumerate(tasks)]
    share = confusion.float() / confusion.sum(1, keepdim=True).clamp_min(1)
    side = max(3.5, 0.55 * len(names) + 1.5)
    figure, axis = plt.subplots(figsize=(side, side))
    axis.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            count = int(confusion[row, column])
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8, **_PLAIN)
    axis.set_yticks(range(len(names)), names, fontsize=8, **_PLAIN)
    axis.set_xlabel("routed to")
    axis.set_ylabel("true task")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    finally:
        plt.close(figure)


def _spread(candidates: list[int], scores: Tensor, count: int) -> list[int]:
    ranked = sorted(candidates, key=lambda i: float(scores[i]))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(p)] for p in np.linspace(0, len(ranked) - 1, count)]
