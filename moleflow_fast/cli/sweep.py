"""moleflow sweep -o DIR: many runs side by side, from a list of presets or a grid of options, times seeds."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import FAILED, FINE, CommandParser
from moleflow_fast.config.command_line import add_run_options
from moleflow_fast.config.data_sets import PUBLISHED
from moleflow_fast.errors import UserError
from moleflow_fast.experiments.sweep_plan import Plan, make_plan
from moleflow_fast.run.ray_session import ray_session
from moleflow_fast.system.locks import alone

if TYPE_CHECKING:
    from moleflow_fast.console import Console
    from moleflow_fast.experiments.sweep import Share, Sweep

_DESCRIPTION = """\
Do many runs: presets or a grid of options, times seeds, on this machine or a Ray cluster."""

_EXAMPLES = """\
every other option is one of moleflow train and holds for all runs; it wins over a preset's

examples:
  moleflow sweep -o runs/demo --grid dia_n_blocks=2,4 lr=1e-3,2e-3 --num_epochs 5
      four settings of the synthetic demo set
  moleflow sweep -o runs/dia --presets '*-DIA?' MVTec-WRN50-60ep-lr2e4-dia4 --seeds 0 1 2 \\
      --data_path /data/mvtec_ad
      published experiments with three seeds each
  moleflow sweep -o runs/all --presets '*' --data mvtec=/data/mvtec_ad visa=/data/visa mpdd=/data/mpdd \\
      --gpus_per_run 0.25
      all of them, four at a time on a GPU
The same command again goes on where it stopped: finished runs are skipped, interrupted ones resumed, failed ones tried
again. moleflow report makes a document of the directory.
"""


def build_parser() -> CommandParser:
    usage = "-o DIR [--presets PATTERN...] [--grid NAME=V,V...] [--seeds N...] [options]"
    parser = CommandParser("sweep", usage, _DESCRIPTION, _EXAMPLES, beside=run_parser())
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="where results.jsonl, runs/ and logs/ go",
    )
    add("--presets", nargs="+", default=[], metavar="PATTERN", help="published experiments; patterns with * and ?")
    add("--seeds", nargs="+", type=int, help="seeds of every run (default: the preset's own, or 0)")
    add("--grid", nargs="+", default=[], metavar="NAME=V,V", help="values of options; on and off for switches")
    add("--data", nargs="+", default=[], metavar="KIND=DIR", help="folders of mvtec, visa, mpdd for presets of several")
    add("--retries", type=int, default=2, help="how often a run that failed or lost its worker is tried again (2)")
    add("--cpus_per_run", type=float, default=1, help="CPUs, and threads, of a run (default 1)")
    add("--gpus_per_run", type=float, help="GPUs of a run, 0.25 for four on one (default 1 where there are any)")
    add("--cpus", type=int, help="CPUs that the local Ray may use (default all)")
    add("--address", help="a running Ray cluster, host:port or auto; its machines see the same files (default: local)")
    add("--dry_run", action="store_true", help="list the runs and their states, and stop")
    add("--estimate", action="store_true", help="time a few steps of every shape here, say how long it takes, and stop")
    add("--quiet", action="store_true", help="no live table")
    return parser


def run_parser() -> CommandParser:
    """Of the options that hold for all runs."""
    parser = CommandParser("sweep", "", "")
    add_run_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    args, given = build_parser().parse_known_args(argv)
    return outcome(lambda: _sweep(args, given), "the same command goes on where it stopped")


def _sweep(args: argparse.Namespace, given: list[str]) -> int:
    from moleflow_fast.console import Console  # not at the top, like what shows the runs: --help needs no rich

    console = Console(args.quiet)
    grid, folders = _settings(args.grid, "--grid"), _folders(args.data)
    plan = make_plan(args.presets, args.seeds, grid, folders, given, run_parser())
    if args.estimate:
        return _estimate(plan, console)
    return _show(args, plan, console) if args.dry_run else _run(args, plan, console)


def _run(args: argparse.Namespace, plan: Plan, console: Console) -> int:
    from moleflow_fast.experiments.sweep import Sweep
    from moleflow_fast.experiments.sweep_view import SweepView, ranking

    args.output.mkdir(parents=True, exist_ok=True)
    with alone(args.output / ".lock", f"sweep {args.output}"), ray_session(args.address, args.cpus) as ray:
        sweep = Sweep(args.output)
        _announce(plan, sweep, console)
        view = SweepView(console, len(plan.runs))
        records = sweep.execute(plan.runs, ray, _share(args, plan, ray), args.retries, view)
        sweep.records.write_parquet(sweep.directory / "results.parquet")
    console.console.print(ranking(records))
    failed = [record for record in records if record["status"] == "failed"]
    for record in failed:
        log = sweep.directory / "logs" / f"{Path(record['directory']).name}.log"
        console.warn(f"{record['name']} seed {record['seed']} failed: {record['error']} ({log})")
    console.say(f"written to     {sweep.directory} (results.jsonl, results.parquet, runs/, logs/)")
    return FAILED if failed else FINE


def _show(args: argparse.Namespace, plan: Plan, console: Console) -> int:
    from moleflow_fast.experiments.sweep import Sweep

    sweep = Sweep(args.output) if args.output.is_dir() else None
    for run in plan.runs:
        state = "new" if sweep is None else _state(sweep, run)
        console.say(f"{run.identity}  {state:<11}  {' = '.join(run.names)}  seed {run.options.seed}")
    _announce(plan, sweep, console)
    return 0


def _estimate(plan: Plan, console: Console) -> int:
    from moleflow_fast.experiments.estimate import estimate  # imports torch and builds models

    with console.counting("shapes measured") as progress:
        result = estimate(plan.runs, progress)
    console.say(str(result))
    return 0


def _state(sweep: Sweep, run: Any) -> str:
    if sweep.is_finished(run):
        return "finished"
    return "interrupted" if sweep.is_started(run) else "new"


def _announce(plan: Plan, sweep: Sweep | None, console: Console) -> None:
    for preset in plan.left_out:
        console.warn(f"{preset.name} is left out: {preset.inferred}")
    states = [_state(sweep, run) for run in plan.runs] if sweep is not None else ["new"] * len(plan.runs)
    names = sum(len(run.names) for run in plan.runs)
    same = f" ({names} asked for, some are the same run)" if names > len(plan.runs) else ""
    console.say(
        f"sweep          {len(plan.runs)} runs{same}: {states.count('finished')} finished, "
        f"{states.count('interrupted')} interrupted, {states.count('new')} new"
    )


def _share(args: argparse.Namespace, plan: Plan, ray: Any) -> Share:
    """GPUs only where runs want them and there are some."""
    from moleflow_fast.experiments.sweep import Share

    wanted = any(run.options.device != "cpu" for run in plan.runs)
    there = ray.cluster_resources().get("GPU", 0) if wanted else 0
    gpus = args.gpus_per_run if args.gpus_per_run is not None else float(there > 0)
    if gpus > there:
        raise UserError(f"--gpus_per_run {gpus:g}, but Ray sees {there:g} GPUs that these runs may use")
    cpus = ray.cluster_resources().get("CPU", 0)
    if args.cpus_per_run > cpus:
        raise UserError(f"--cpus_per_run {args.cpus_per_run:g}, but Ray has {cpus:g} CPUs")
    return Share(args.cpus_per_run, gpus)


def _settings(words: Sequence[str], option: str) -> dict[str, list[str]]:
    settings = {}
    for word in words:
        name, equals, values = word.removeprefix("--").partition("=")
        if not equals or not name or not all(values.split(",")):
            raise UserError(f"{option} {word}: expected NAME=VALUE,VALUE")
        settings[name] = values.split(",")
    return settings


def _folders(words: Sequence[str]) -> dict[str, str]:
    folders = {}
    for word in words:
        kind, equals, folder = word.partition("=")
        if not equals or kind not in PUBLISHED:
            raise UserError(f"--data {word}: expected mvtec=DIR, visa=DIR or mpdd=DIR")
        folders[kind] = folder
    return folders
