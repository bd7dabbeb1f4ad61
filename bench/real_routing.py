"""Routing and unknown images by kind of router covariance, on image folders in MVTec AD layout.

python bench/real_routing.py --data IMAGES --weights WEIGHTS [--cache FOLDER] [--classes NAME ...] [--seeds N] -o ROWS

Each seed draws `images` training images of each class, and the half of its normal test images that calibrates; the
other half and the defective images are judged. Left out: each class in turn, whose images must then be unknown. Writes
a row a draw and class to ROWS (CSV) and prints them as a Markdown table, means over draws. `ratio`: median distance of
normal test images over that of training images; `held out`: over that of training images corrected for being fitted.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from tables import markdown  # noqa: E402

from moleflow_fast.config.options import RunOptions  # noqa: E402
from moleflow_fast.config.switches import ROUTER_COVARIANCES  # noqa: E402
from moleflow_fast.detector.calibration import TaskCalibration  # noqa: E402
from moleflow_fast.models.routing import PrototypeRouter  # noqa: E402
from moleflow_fast.run.console import RunConsole  # noqa: E402
from moleflow_fast.run.context import RunContext  # noqa: E402
from moleflow_fast.run.run import Run  # noqa: E402

IMAGES = (20, 75, None)


@dataclass(frozen=True)
class Features:
    """Image features of a class, (n, D) each."""

    training: Tensor
    normal: Tensor
    defective: Tensor


@dataclass(frozen=True)
class Draw:
    """What a router of some classes is fitted to, calibrated on and judged by."""

    training: Mapping[str, Tensor]
    calibrating: Mapping[str, Tensor]
    normal: Mapping[str, Tensor]


@dataclass(frozen=True)
class Row:
    covariance: str
    images: str
    seed: int
    class_name: str
    routed_right: float
    ratio: float
    held_out_ratio: float
    unknown_normal: float
    unknown_defective: float
    unknown_left_out: float


def features_of(run: Run) -> dict[str, Features]:
    found = {}
    for task, (name,) in enumerate(run.tasks):
        test = run.features.test_class(name, task)
        features, is_normal = test.source.image_features.cpu(), test.labels == 0
        training = run.features.training([name]).image_features.cpu()
        found[name] = Features(training, features[is_normal], features[~is_normal])
    return found


def draw(classes: Mapping[str, Features], images: int | None, seed: int) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    training, calibrating, normal = {}, {}, {}
    for name, features in classes.items():
        training[name] = features.training[torch.randperm(len(features.training), generator=generator)[:images]]
        shuffled = features.normal[torch.randperm(len(features.normal), generator=generator)]
        half = len(shuffled) // 2
        calibrating[name], normal[name] = shuffled[:half], shuffled[half:]
    return Draw(training, calibrating, normal)


class Judge:
    """A router of some classes, and its limits: those of `detector.calibrate`."""

    def __init__(self, covariance: str, drawn: Draw, names: list[str]) -> None:
        self.router = PrototypeRouter("cpu", covariance=covariance)
        self.names = names
        for task, name in enumerate(names):
            prototype = self.router.new_prototype(task, [name])
            prototype.update(drawn.training[name])
            self.router.add_prototype(prototype)
        self.fitted = {n: self.router.distances(drawn.training[n])[:, names.index(n)] for n in names}
        self.held_out = {n: self.router.held_out_distances(names.index(n), self.fitted[n]) for n in names}
        self.limits = [self._limit(task, drawn) for task in range(len(names))]

    def _limit(self, task: int, drawn: Draw) -> TaskCalibration:
        own = self.names[task]
        known = {n: torch.cat([drawn.training[n], drawn.calibrating[n]]) for n in self.names}
        distances = torch.cat([self.held_out[own], self.router.distances(drawn.calibrating[own])[:, task]])
        others = [self.router.distances(known[n])[:, task].min() for n in self.names if n != own]
        return TaskCalibration(
            task, (own,), len(distances), (), 0.0, 1.0, 0.0, 1.0, float(distances.max()),
            float(min(others)), compares_distances=self.router.compares_distances,
        )  # fmt: skip

    def unknown(self, features: Tensor) -> float:
        """Fraction of images (n, D) that are of no class."""
        nearest = self.router.distances(features).sort(1)
        rows = zip(nearest.values.tolist(), nearest.indices[:, 0].tolist(), strict=True)
        return mean(not self.limits[task].knows(first, second) for (first, second, *_), task in rows)


def judged(covariance: str, classes: Mapping[str, Features], images: int | None, seed: int) -> Iterator[Row]:
    drawn, names = draw(classes, images, seed), list(classes)
    judge = Judge(covariance, drawn, names)
    for task, (name, features) in enumerate(classes.items()):
        test = torch.cat([features.normal, features.defective])
        normal = judge.router.distances(features.normal)[:, task].median()
        without = Judge(covariance, drawn, [n for n in names if n != name])
        yield Row(
            covariance,
            str(images or "all"),
            seed,
            name,
            routed_right=float((judge.router.route(test) == task).double().mean()),
            ratio=float(normal / judge.fitted[name].median()),
            held_out_ratio=float(normal / judge.held_out[name].median()),
            unknown_normal=judge.unknown(drawn.normal[name]),
            unknown_defective=judge.unknown(features.defective),
            unknown_left_out=without.unknown(torch.cat([test, features.training])),
        )


def table(rows: list[Row], defective: Mapping[str, int]) -> str:
    """Means over draws; in the last line of a group every defective image weighs the same, elsewhere every class."""
    lines = []
    for (covariance, images), group in groupby(rows, lambda row: (row.covariance, row.images)):
        by_class = _by_class(list(group))
        means = [_mean(one) for one in by_class]
        lines += [(covariance, images, one[0].class_name, *values) for one, values in zip(by_class, means, strict=True)]
        total = [mean(column) for column in zip(*means, strict=True)]
        weights = [defective[one[0].class_name] for one in by_class]
        total[4] = sum(w * values[4] for w, values in zip(weights, means, strict=True)) / sum(weights)
        lines.append((covariance, images, "all", *total))
    heads = ("covariance", "images", "class", "routed right", "ratio", "held out", "unknown: normal", "defective")
    return markdown([*heads, "left out"], [[*line[:3], *(f"{v:.4f}" for v in line[3:])] for line in lines])


def _by_class(rows: list[Row]) -> list[list[Row]]:
    names = dict.fromkeys(row.class_name for row in rows)
    return [[row for row in rows if row.class_name == name] for name in names]


def _mean(rows: list[Row]) -> list[float]:
    figures = [list(asdict(row).values())[4:] for row in rows]
    return [mean(column) for column in zip(*figures, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds the class folders")
    parser.add_argument("--weights", help="of mobilenetv2_100; from timm if left out")
    parser.add_argument("--cache", help="where features are kept")
    parser.add_argument("--classes", nargs="+", help="all of the folder if left out")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    options = RunOptions(
        dataset="folder", data_path=args.data, task_classes=tuple(args.classes) if args.classes else None,
        backbone_name="mobilenetv2_100", backbone_weights=args.weights, backbone_layers=("blocks.2", "blocks.4"),
        embed_dim=256, cache_dir=args.cache, device="cpu", num_workers=0, quiet=True,
    )  # fmt: skip
    classes = features_of(Run(RunContext(options, RunConsole(quiet=True))))
    rows = [
        row
        for covariance in ROUTER_COVARIANCES
        for images in IMAGES
        for seed in range(args.seeds)
        for row in judged(covariance, classes, images, seed)
    ]
    with args.output.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in asdict(row).items()} for row in rows
        )
    print(table(rows, {name: len(features.defective) for name, features in classes.items()}))


if __name__ == "__main__":
    main()
