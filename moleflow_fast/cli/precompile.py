"""moleflow precompile: compile what a run launches before anything runs or is timed."""

from __future__ import annotations

import argparse
import logging

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import CommandParser
from moleflow_fast.config.requested import PRECISIONS, requested_precision
from moleflow_fast.errors import UserError
from moleflow_fast.system.heavy_imports import heavy_imports

_WIDE_RESNET = {"dim": 768, "images": 16, "grid": 28}  # of WideResNet-50-2 at 224 pixels


_DESCRIPTION = """\
Compile the Triton kernels that a run launches, side by side, before anything runs or is timed. A run does so itself
while it makes its features."""

_EXAMPLES = """\
examples:
  moleflow precompile                                    # WideResNet-50-2 at 224 pixels, for the GPU here
  moleflow precompile --dim 256 --grid 28 --arch 90      # for an H200, on a machine without one"""

_EXIT_CODES = """\
exit codes: 0 all is compiled, 1 some kernel is not, or there is nothing to compile for, 2 the command line is wrong,
130 ended by Ctrl-C, 143 ended by SIGTERM"""


def build_parser() -> CommandParser:
    parser = CommandParser("precompile", "[options]", _DESCRIPTION, _EXAMPLES, _EXIT_CODES)
    parser.add_argument("--dim", type=int, help="channels of a patch (default %(default)s)")
    parser.add_argument("--images", type=int, help="images of a training step (default %(default)s)")
    parser.add_argument("--grid", type=int, help="patches along a side of an image (default %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, help="as for training (default $MOLEFLOW_PRECISION or fp32)")
    parser.add_argument("--arch", type=int, help="compute capability, 90 for an H200; that of the GPU here if left out")
    parser.set_defaults(**_WIDE_RESNET, precision=requested_precision())
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    left = "what is compiled stays, the rest is compiled when it is first launched"
    return outcome(lambda: _compile(args), left)


def _compile(args: argparse.Namespace) -> int:
    with heavy_imports():
        from moleflow_fast.config.options import RunOptions
        from moleflow_fast.console import Console
        from moleflow_fast.kernels.ways import find_table, use_table
        from moleflow_fast.precompile.compiling import compile_launches
        from moleflow_fast.precompile.launches import launches
        from moleflow_fast.precompile.workload import Workload

    console, arch = Console(), args.arch or _arch_here()
    options = RunOptions(batch_size=args.images, precision=args.precision)
    table = find_table(_device_name() if args.arch is None else f"sm_{arch}", divmod(arch, 10))
    with use_table(table):
        found = launches(Workload(options, args.dim, (args.grid, args.grid)).run, arch)
    if not console.show_progress:
        console.say(f"compiling {len(found)} kernels for sm_{arch}")
    with console.counting("compiling", "kernels") as progress:
        outcome = compile_launches(found, arch, progress)
    for reason in outcome.failed:
        console.warn(f"kernel {reason}; its first launch compiles it again and shows the error")
    console.say(f"{outcome.kernels} kernels in {outcome.seconds:.1f} s, {outcome.there} were there")
    return 1 if outcome.failed else 0


def _device_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def _arch_here() -> int:
    import torch

    if not torch.cuda.is_available():
        raise UserError("there is no GPU here: name one to compile for, e.g. --arch 90")
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
