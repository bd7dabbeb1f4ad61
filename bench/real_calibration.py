"""How many new normal images exceed the threshold that "one normal image in twenty" stands for.

    OMP_NUM_THREADS=2 python bench/real_calibration.py --csv rows.csv --dataset folder --data_path parts

takes the options of `moleflow_fast.train`. Of each class's normal images, those to train on and those to test on, n are
drawn at random. They make a Gaussian front and, each behind a front that was estimated without it, a threshold; up to
150 of the others are the new images. Rows: class, n, draw, and the fraction of new images above the threshold, once
cross-fitted and once from the training images as they are.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.config.command_line import build_parser, options_of
from moleflow_fast.config.options import RunOptions
from moleflow_fast.detector.normal_scores import threshold
from moleflow_fast.extractors.stores import TensorStore
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run
from moleflow_fast.trainer.cross_fitting import cross_fitted

NEW_IMAGES = 150
DRAWS = {20: 32, 75: 12, 200: 4}
COLUMNS = ("class_name", "n", "draw", "new_images", "above", "above_not_cross_fitted")


def rows(run: Run, name: str, task_id: int) -> Iterator[dict[str, Any]]:
    test = run.features.test_class(name, task_id)
    held_out = test.source.patches((test.labels == 0).nonzero().flatten())  # type: ignore[attr-defined]
    source = run.features.training([name])
    normal = torch.cat([source.patches(torch.arange(len(source))), held_out])  # (N, H, W, D)
    generator = torch.Generator().manual_seed(run.options.seed)
    for n, draws in DRAWS.items():
        for draw in range(draws if len(normal) >= n + 20 else 0):
            order = torch.randperm(len(normal), generator=generator)
            figures = _exceeded(normal[order[:n]], normal[order[n : n + NEW_IMAGES]], run.options.ablation)
            yield {"class_name": name, "n": n, "draw": draw, **figures}


def _exceeded(known: Tensor, new: Tensor, config: AblationConfig) -> dict[str, Any]:
    front = GaussianFront(known.shape[-1], config.front_directions)
    front.fit(lambda: known.split(32))
    source = TensorStore(known, known.mean((1, 2)), known.device, "memory")
    fitted = torch.cat([_scores(white, config) for _, white in cross_fitted(front, source, lambda x: x)])
    as_they_are = torch.cat([_scores(front(x), config) for x in known.split(32)])
    scores = torch.cat([_scores(front(x), config) for x in new.split(32)])
    return {
        "new_images": len(new),
        "above": float((scores > threshold(fitted.numpy(), left_out=True)).float().mean()),
        "above_not_cross_fitted": float((scores > threshold(as_they_are.numpy(), left_out=False)).float().mean()),
    }


def _scores(white: Tensor, config: AblationConfig) -> Tensor:
    return image_scores(white.square().sum(-1) / 2, config)


def parsed(argv: Sequence[str]) -> tuple[Path, RunOptions]:
    parser = build_parser()
    parser.description, parser.epilog = __doc__, None
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--csv", type=Path, required=True, help="file to write, one row a draw")
    try:
        return parser.parse_args(argv).csv, options_of(parser, argv)
    except ValueError as error:
        parser.error(str(error))


def main(argv: Sequence[str]) -> int:
    file, options = parsed(argv)
    run = Run(RunContext(options))
    with run.context.as_chosen(), torch.no_grad(), file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for task_id in run.tasks.active:
            for name in run.tasks[task_id]:
                writer.writerows(found := list(rows(run, name, task_id)))
                stream.flush()
                for n in DRAWS:
                    above = [row["above"] for row in found if row["n"] == n]
                    mean = f"{sum(above) / len(above):.1%}" if above else "too few images"
                    run.console.say(f"{name}, {n} images: {mean} of new normal images above")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
