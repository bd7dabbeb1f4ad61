"""Diagnostics of a flow on normal and defective images: log-determinants, latents, and which of them decides scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moleflow_fast.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

KINDS = ("normal", "anomaly")
_COLOURS = {"normal": "tab:blue", "anomaly": "tab:red"}
_MOST_POINTS = 10_000
_MOST_MAPS = 4
_NO_DIFFERENCE, _NOISE = 1.2, 1.0  # published limits of the diagnosis
_BATCH = 8

Statistics = dict[str, dict[str, Any]]


class FlowDiagnostics:
    """Gathers latents and log-determinants of images, and draws what they say.

    Args:
        save_dir: where pictures and texts go; made if it is not there.
        max_samples: images kept of each kind, normal and defective.
    """

    def __init__(self, save_dir: str | Path, max_samples: int = 1000) -> None:
        self.save_dir = Path(save_dir)
        self.save_dir.mkdir(parents=True, exist_ok=True)
        self.max_samples = max_samples
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.data: dict[str, dict[str, list[Any]]] = {
            kind: {"z": [], "logdet_patch": [], "images": [], "masks": []} for kind in KINDS
        }
        self.class_names: list[str | None] = []

    def collect(
        self, z: Tensor, logdet_patch: Tensor, is_anomaly: Tensor, images: Tensor | None = None,
        masks: Tensor | None = None, class_name: str | None = None,
    ) -> None:  # fmt: skip
        """Take in latents z (B, H, W, D) and log-determinants (B, H, W) of images, and which are defective (B,)."""
        for i, defective in enumerate(is_anomaly.tolist()):
            kept = self.data[KINDS[bool(defective)]]
            if len(kept["z"]) >= self.max_samples:
                continue
            self.class_names.append(class_name)
            for name, values in (("z", z), ("logdet_patch", logdet_patch), ("images", images), ("masks", masks)):
                if values is not None:
                    kept[name].append(values[i].detach().cpu())

    def compute_statistics(self) -> Statistics:
        """By kind that has images: figures per image (N,), per patch (N, H, W), and over all patches, flat."""
        return {kind: _statistics(kept) for kind, kept in self.data.items() if kept["z"]}

    def analyze_and_save(self, epoch: int | None = None, task_id: int | None = None) -> None:
        """Write pictures and a summary to `save_dir`, named by task and epoch where they are given.

        Raises:
            WriteFailed: one of them cannot be written.
        """
        statistics = self.compute_statistics()
        if not statistics:
            logger.warning("no diagnostics: `collect` has seen no image")
            return
        suffix = "".join(f"_{name}{n}" for name, n in (("task", task_id), ("epoch", epoch)) if n is not None)
        for name, draw in _PICTURES.items():
            self._draw(f"{name}{suffix}.png", draw, statistics)
        for kind in statistics:
            self._draw(f"5_spatial_heatmap_{kind}{suffix}.png", _heat_maps, {kind: statistics[kind]})
        with replacing(self.save_dir / f"diagnostics_summary{suffix}.txt") as temporary:
            temporary.write_text(summary(statistics))

    def _draw(self, name: str, draw: Callable[[Any, Statistics], None], statistics: Statistics) -> None:
        from matplotlib.figure import Figure  # slow to import, and not wanted by who only computes

        figure = Figure(figsize=(9, 6), layout="constrained")
        draw(figure, statistics)
        with replacing(self.save_dir / name) as temporary:
            figure.savefig(temporary, format="png", dpi=100)


def _statistics(kept: Mapping[str, list[Tensor]]) -> dict[str, Any]:
    latents, logdets = torch.stack(kept["z"]).double(), torch.stack(kept["logdet_patch"]).double()  # (N, H, W, D)
    norms = latents.norm(dim=-1)  # (N, H, W)
    log_density = -0.5 * norms.square() - 0.5 * latents.shape[-1] * math.log(2 * math.pi)
    by_image = logdets.flatten(1)  # (N, H W)
    return {
        "n_samples": len(latents),
        "logdet_std_per_image": by_image.std(1),
        "logdet_mean_per_image": by_image.mean(1),
        "logdet_max_per_image": by_image.abs().amax(1),
        "var_logdet_per_image": by_image.var(1),
        "var_log_pz_per_image": log_density.flatten(1).var(1),
        "z_norm_flat": norms.flatten(),
        "logdet_flat": logdets.flatten(),
        "logdet_patches": logdets,
        "z_norm_patches": norms,
    }


def summary(statistics: Statistics) -> str:
    """The figures in words, and what they say of the log-determinant."""
    lines = ["Log-determinants and latents of the flow", ""]
    for kind, of in statistics.items():
        std, largest = of["logdet_std_per_image"], of["logdet_max_per_image"]
        both = torch.stack([of["logdet_flat"], of["z_norm_flat"]])
        of_logdet, of_latent = (of[name].mean().item() for name in ("var_logdet_per_image", "var_log_pz_per_image"))
        lines += [
            f"{kind}: {of['n_samples']} images",
            f"  deviation of the log-determinant within an image: mean {std.mean():.4f}, deviation {_spread(std):.4f}, "
            f"{std.min():.4f} to {std.max():.4f}",
            f"  largest log-determinant of an image: mean {largest.mean():.4f}, deviation {_spread(largest):.4f}",
            f"  variance within an image: of the log-determinant {of_logdet:.4f}, of log p(z) {of_latent:.4f}, ratio "
            f"{of_logdet / max(of_latent, 1e-12):.4f}",
            f"  correlation of log-determinant and |z|: {torch.corrcoef(both)[0, 1]:.4f}",
            "",
        ]
    if len(statistics) == len(KINDS):
        lines.append(f"DIAGNOSIS: {diagnosis(statistics)}")
    return "\n".join(lines) + "\n"


def diagnosis(statistics: Statistics) -> str:
    """DEAD, NOISY or HEALTHY, by the published rule, with what it stands for."""
    normal, defective = (statistics[kind]["logdet_std_per_image"].mean().item() for kind in KINDS)
    ratio = defective / max(normal, 1e-12)
    if ratio < _NO_DIFFERENCE:
        return f"DEAD: log-determinants of defective images vary {ratio:.2f} times as much: they tell nothing"
    if normal > _NOISE:
        return f"NOISY: log-determinants of normal images vary by {normal:.2f} within an image"
    return f"HEALTHY: log-determinants of defective images vary {ratio:.2f} times as much"


def _spread(values: Tensor) -> float:
    return values.std().item() if len(values) > 1 else 0.0


def _histograms(name: str, label: str) -> Callable[[Any, Statistics], None]:
    def draw(figure: Any, statistics: Statistics) -> None:
        axes: Axes = figure.subplots()
        for kind, of in statistics.items():
            axes.hist(of[name].numpy(), bins=30, alpha=0.6, label=f"{kind} ({of['n_samples']})", color=_COLOURS[kind])
        axes.set(xlabel=label, ylabel="images")
        axes.legend()

    return draw


def _correlation(figure: Any, statistics: Statistics) -> None:
    axes: Axes = figure.subplots()
    for kind, of in statistics.items():
        count = len(of["z_norm_flat"])
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:_MOST_POINTS]
        points = of["z_norm_flat"][chosen].numpy(), of["logdet_flat"][chosen].numpy()
        axes.scatter(*points, s=3, alpha=0.4, label=kind, color=_COLOURS[kind])
    axes.set(xlabel="|z| of a patch", ylabel="log-determinant of a patch")
    axes.legend()


def _contributions(figure: Any, statistics: Statistics) -> None:
    axes: Axes = figure.subplots()
    for i, (kind, of) in enumerate(statistics.items()):
        values = [of[name].mean().item() for name in ("var_log_pz_per_image", "var_logdet_per_image")]
        axes.bar([i - 0.2 + 0.4 * j for j in range(2)], values, width=0.35, label=kind, color=_COLOURS[kind])
    axes.set(ylabel="variance within an image: log p(z) left, log-determinant right", yscale="log")
    axes.set_xticks(range(len(statistics)), list(statistics))


def _heat_maps(figure: Any, statistics: Statistics) -> None:
    ((kind, of),) = statistics.items()
    count = min(of["n_samples"], _MOST_MAPS)
    rows = figure.subplots(2, count, squeeze=False)
    for name, row in zip(("logdet_patches", "z_norm_patches"), rows, strict=True):
        for i, axes in enumerate(row):
            figure.colorbar(axes.imshow(of[name][i].numpy()), ax=axes)
            axes.set_title("log-determinant" if name == "logdet_patches" else "|z|")
            axes.axis("off")
    figure.suptitle(kind)


_PICTURES: Mapping[str, Callable[[Any, Statistics], None]] = {
    "1_logdet_std_comparison": _histograms("logdet_std_per_image", "deviation of the log-determinant in an image"),
    "2_logdet_z_correlation": _correlation,
    "3_variance_contribution": _contributions,
    "4_max_logdet_distribution": _histograms("logdet_max_per_image", "largest |log-determinant| of an image"),
}


@torch.no_grad()
def run_diagnostics_on_model(
    trainer: Any, args: Any, task_id: int | None = None, save_dir: str | Path | None = None, max_samples: int = 500
) -> FlowDiagnostics:
    """Diagnostics of the test images of every class learned, each under the expert `task_id`, or its own where None.

    Args:
        trainer: a `MoLEContinualTrainer`.
        args: anything with dataset, data_path and img_size.
        save_dir: `./diagnostics` where None.
    """
    from moleflow_fast.data.datasets import get_dataset_class

    diagnostics = FlowDiagnostics(save_dir or "./diagnostics", max_samples)
    for task, names in trainer.task_classes.items():
        for name in names:
            data = get_dataset_class(args.dataset)(
                args.data_path, name, train=False, img_size=args.img_size, crp_size=args.img_size
            )
            for batch in torch.utils.data.DataLoader(data, batch_size=_BATCH):
                images, labels, masks = batch[:3]
                patches = trainer.moleflow.add_positions(trainer.vit_extractor(images.to(trainer.device)))
                z, logdet = trainer.nf_model.forward_as(task if task_id is None else task_id, patches)
                diagnostics.collect(z, logdet, labels > 0, images, masks, name)
    diagnostics.analyze_and_save(task_id=task_id)
    return diagnostics
