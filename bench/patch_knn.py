"""The rival that needs no training: each patch's distance to the nearest of a coreset of its class's training patches.

    OMP_NUM_THREADS=2 python bench/patch_knn.py --csv rows.csv --dataset folder --data_path parts

takes the options of `moleflow_fast.train`, of which data, backbone, evaluation and machine matter, and computes on the
same cached features and by the same evaluation as a run. There is no router: every class is scored under its true id,
in the file as "oracle". The training patches of one task are held in memory at once.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from coreset import greedy_coreset, nearest_distances, random_coreset
from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.config.command_line import build_parser, options_of
from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.by_class import ClassResult, evaluate_class
from moleflow_fast.evaluation.scorer import Scorer
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run

Choose = Callable[[Tensor, int, int], Tensor]
CORESETS: dict[str, Choose] = {"greedy": greedy_coreset, "random": random_coreset}
FIGURES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")
COLUMNS = (
    "coreset",
    "ids",
    *(f.name for f in fields(ClassResult) if f.name != "routing_accuracy"),
    "build_seconds",
    "bank_bytes",
)


class PatchNeighbours:
    """Stands where a `Scorer` wants a `MoLEFlow`."""

    def __init__(self, bank: Tensor, config: AblationConfig) -> None:
        self.bank = bank  # (m, D)
        self.config = config

    def anomaly_maps(self, patches: Tensor, task_ids: Tensor) -> Tensor:
        """Distance (B, H, W) of each patch (B, H, W, D) to the bank of the one task there is."""
        return nearest_distances(patches.flatten(0, 2), self.bank).view(patches.shape[:3])


def rows(run: Run, coreset: str, patches: int) -> Iterator[dict[str, Any]]:
    """One a class; seconds are those of the coreset and of reading cached features, without the backbone's."""
    options = run.options
    for task_id in run.tasks.active:
        loader = run.features.loader(task_id)
        start = time.perf_counter()
        everything = torch.cat([batch.flatten(0, 2) for batch, _ in loader.in_order()])  # (images H W, D)
        bank = everything[CORESETS[coreset](everything, patches, options.seed)]
        build_seconds = time.perf_counter() - start
        del everything
        scorer = Scorer(
            PatchNeighbours(bank, options.ablation),  # type: ignore[arg-type]
            options.mask_size,
            options.score_smooth_sigma,
            options.interp_mode,
            options.batch_size,
        )
        for name in run.tasks[task_id]:
            test = run.features.test_class(name, task_id)
            result = asdict(evaluate_class(scorer, test, scorer.true_ids(test)))
            scorer.forget_maps([test])  # another coreset makes others
            del result["routing_accuracy"]
            yield {
                "coreset": coreset,
                "ids": "oracle",
                **result,
                "build_seconds": build_seconds,
                "bank_bytes": bank.nbytes,
            }


def say_means(run: Run, table: Sequence[dict[str, Any]]) -> None:
    for coreset in dict.fromkeys(row["coreset"] for row in table):
        of = [row for row in table if row["coreset"] == coreset]
        run.console.say(f"{coreset}: mean " + " ".join(f"{name} {_mean(of, name):.4f}" for name in FIGURES))


def _figures(row: dict[str, Any]) -> str:
    figures = " ".join(f"{name} {row[name]:.4f}" for name in FIGURES)
    return f"{figures} build_seconds {row['build_seconds']:.1f}"


def _mean(table: Sequence[dict[str, Any]], figure: str) -> float:
    """Over the classes that have it."""
    values = [row[figure] for row in table if not math.isnan(row[figure])]
    return sum(values) / len(values) if values else math.nan


def parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, RunOptions]:
    parser = build_parser()
    parser.description, parser.epilog = __doc__, None
    own = parser.add_argument_group("nearest neighbours")
    own.add_argument("--csv", type=Path, required=True, help="file to write, one row a class")
    own.add_argument("--bank_patches", type=int, default=8000, help="patches kept of each task (default 8000)")
    own.add_argument(
        "--coreset", nargs="+", choices=CORESETS, default=["greedy"], help="how they are chosen (default greedy)"
    )
    try:
        options, own_options = options_of(parser, argv), parser.parse_args(argv)
    except ValueError as error:
        parser.error(str(error))
    if own_options.bank_patches < 1:
        parser.error(f"--bank_patches must be at least 1, got {own_options.bank_patches}")
    return own_options, options


def main(argv: Sequence[str]) -> int:
    own, options = parsed(argv)
    run, table = Run(RunContext(options)), []
    try:
        with run.context.as_chosen(), torch.no_grad(), own.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            run.console.say("every class under its true id: nearest neighbours have no router")
            for coreset in own.coreset:
                for row in rows(run, coreset, own.bank_patches):
                    writer.writerow(row)
                    table.append(row)
                    run.console.say(f"{coreset}: {row['class_name']} {_figures(row)} bank_bytes {row['bank_bytes']}")
            say_means(run, table)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
