"""What can be wrong with a run, found before the first file is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from moleflow_fast.backend import flow_backend, runs_compiled, why_not_precision
from moleflow_fast.data.check import DataCheck
from moleflow_fast.errors import UserError
from moleflow_fast.run.ray_session import ray_module
from moleflow_fast.run.run import Run
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer


@contextmanager
def data_checked(run: Run) -> Iterator[None]:
    """In the block files are read by other processes; at its end all of them are known to be sound.

    What is wrong with them comes before what is found wrong in the block.

    Raises:
        DataError: files that are not there or cannot be read.
    """
    tasks = run.tasks
    missing = [t for t in tasks.active if not tasks.have_images(t)]
    if missing:
        run.console.warn(f"images of {tasks.names(missing)} are not there: they are not evaluated again")
    by_source: dict[tuple[str, Path], list[list[str]]] = {}
    for task in (tasks[t] for t in tasks.active if t not in missing):
        for source in tasks.sources_of(task[0]):
            by_source.setdefault(source, []).append(task)
    checks = [
        DataCheck(layout, root, classes, run.context.decoder, run.images.frame, run.images.are_worth_keeping)
        for (layout, root), classes in by_source.items()
    ]
    try:
        yield
    except UserError:
        _finish(run, checks)
        raise
    _finish(run, checks)


def _finish(run: Run, checks: Sequence[DataCheck]) -> None:
    with phase("check"):
        reports = [check.finish() for check in checks]
    for warning in (warning for report in reports for warning in report.warnings):
        run.console.warn(warning)


def flow_in_words(run: Run, trainer: MoLEContinualTrainer) -> str:
    """What computes the flow.

    Raises:
        UserError: it cannot compute as asked.
    """
    plain = _why_plain(run)
    _require_precision(run, plain)
    precision = run.options.precision
    if precision == "tf32" and run.device.type == "cpu":
        precision = "fp32 (tf32 is for a GPU)"
    steps = "as CUDA graphs" if trainer.steps_are_graphs else "one by one"
    how = f"compiled ({flow_backend(run.device)})" if plain is None else f"plain PyTorch: {plain}"
    return f"{how}; precision {precision}, training steps {steps}"


def _why_plain(run: Run) -> str | None:
    """Why the flow runs in plain PyTorch, None if it is compiled; an error where that was insisted on in vain."""
    features = torch.empty(0, device=run.device)
    flow = run.moleflow.flow
    reason = flow.runner.why_not_compiled(flow.expert(None).flow, features)
    runs_compiled(features, why_not=reason, backend=flow_backend(run.device))
    return reason


def _require_precision(run: Run, why_plain: str | None) -> None:
    reason = why_not_precision(run.device.type, why_plain)
    if reason:
        raise UserError(
            f"--precision {run.options.precision} needs the flow on Triton kernels on a GPU, but {reason}; "
            "take --precision fp32"
        )


def require_parallel(trainer: MoLEContinualTrainer) -> None:
    """
    Raises:
        UserError: tasks cannot be learned in parallel, or there is no Ray.
    """
    if not trainer.promises_zero_forgetting:
        raise UserError(
            "--parallel_tasks needs later tasks that depend on the frozen base alone; --enable_slow_stage and "
            "--no_freeze_base change the base: drop them or --parallel_tasks"
        )
    ray_module()
