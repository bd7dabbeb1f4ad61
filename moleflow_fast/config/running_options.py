"""Options of a run: what it is called, what it starts from and leaves behind, and the machine that it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from moleflow_fast.config.option import Comparison, Environment, Scope, Work, at_least, option
from moleflow_fast.config.requested import BACKENDS, PRECISIONS, given_backend, given_precision

PARALLEL_TASKS = ("off", "ray")
LOGGERS = ("tensorboard", "wandb", "mlflow")

_run = partial(option, "run")
_machine = partial(option, "machine")


@dataclass(frozen=True)
class RunningOptions:
    """The groups run and machine of `--help`."""

    preset: str | None = _run(
        None,
        "start from a named experiment (see --list_presets); options given beside it win; folder and demo start from "
        "'line', which detects well after one pass, unless it is 'published' or another one",
        scope=Scope.RUN,
        decided_by_sweep=True,
    )
    log_dir: str = _run("runs", "where run directories go", scope=Scope.RUN, decided_by_sweep=True)
    experiment_name: str | None = _run(None, "name of this run's directory", scope=Scope.RUN, decided_by_sweep=True)
    resume: bool = _run(
        False,
        "go on with the interrupted run --experiment_name (in --log_dir), after its last complete task or inside the "
        "next; what decides its numbers is stored with it and need not be given again",
        scope=Scope.RUN,
        decided_by_sweep=True,
    )
    state_seconds: float = _run(
        60.0,
        "between two states of a task in training, written after an epoch, from which a killed run goes on",
        at_least(0),
        scope=Scope.MACHINE,
    )
    load_checkpoint: str | None = _run(
        None,
        "start from a checkpoint: a run directory, or one of the published implementation",
        is_path=True,
        comparison=Comparison.PROTOCOL,
        work=Work.TIME,
    )
    final_eval_only: bool = _run(
        False,
        "evaluate once, after the last task; with --load_checkpoint: evaluate it, and train nothing",
        comparison=Comparison.PROTOCOL,
        work=Work.TIME,
    )
    run_diagnostics: bool = _run(
        False,
        "write diagnostics/task_<t>.json: densities, log-determinants, norms of the expert's parts",
        scope=Scope.MACHINE,
    )
    published_csv: bool = _run(
        False, "also write the CSV files of the published package, for scripts that read them", scope=Scope.RUN
    )
    logger: tuple[str, ...] | None = _run(
        None,
        "programs that get the run's curves and options: tensorboard (files in the run's directory), wandb (without a "
        "key files there, for `wandb sync`), mlflow (mlflow.db in --log_dir where MLFLOW_TRACKING_URI names no "
        "server). Each is an extra of its name: pip install 'moleflow_fast[wandb]'",
        choices=LOGGERS,
        scope=Scope.MACHINE,
    )
    tensorboard: bool = _run(False, "the same as --logger tensorboard", scope=Scope.MACHINE)
    quiet: bool = _run(False, "no progress bars", evaluate="no progress bars", scope=Scope.MACHINE)

    device: str = _machine(
        "auto",
        "auto, cpu, cuda or cuda:N",
        evaluate="cpu, cuda or cuda:N",
        scope=Scope.DEVICE,
        comparison=Comparison.CIRCUMSTANCE,
        work=Work.TIME,
    )
    backend: str = _machine(
        "auto",
        "what runs the flow: plain PyTorch (eager), the compiled part (cpp, on a CPU), Triton kernels (triton, on a "
        "GPU), or auto, which takes Triton kernels on a GPU and the compiled part on a CPU, where they can run",
        choices=BACKENDS,
        environment=Environment("MOLEFLOW_BACKEND", given_backend),
        comparison=Comparison.EQUIVALENT,
        work=Work.TIME,
    )
    precision: str = _machine(
        "fp32",
        "what matrix products read on a GPU: fp32, tf32 (convolutions too), or bf16 (the flow's products, on Triton "
        "kernels alone); fp32 until the detection quality of the others has been measured on a GPU",
        choices=tuple(PRECISIONS),
        environment=Environment("MOLEFLOW_PRECISION", given_precision),
        comparison=Comparison.PROTOCOL,
    )
    num_workers: int = _machine(
        2, "processes that decode images; 0 decodes in the main one", at_least(0), scope=Scope.MACHINE
    )
    no_feature_cache: bool = _machine(
        False, "run the backbone every epoch instead of once per image", scope=Scope.MACHINE
    )
    cache_dir: str | None = _machine(
        None,
        "where features are kept between runs ($MOLEFLOW_CACHE or ~/.cache/moleflow_fast/features)",
        is_path=True,
        scope=Scope.MACHINE,
    )
    cache_limit_gb: float = _machine(
        20.0, "largest size of that directory; least recently used features go first", scope=Scope.MACHINE
    )
    device_cache_gb: float = _machine(
        4.0, "features kept in the device's memory; the rest is read from the file", scope=Scope.MACHINE
    )
    parallel_tasks: str = _machine(
        "off",
        "ray: train the first task here and the later ones at once on Ray workers, each with a GPU, or with a CPU for "
        "every thread of this run (OMP_NUM_THREADS); same bits (pip install 'moleflow_fast[sweep]')",
        choices=PARALLEL_TASKS,
        scope=Scope.MACHINE,
        decided_by_sweep=True,
    )
    ray_address: str | None = _machine(
        None,
        "of a running Ray cluster, host:port or auto, whose machines see the data, --log_dir and --cache_dir under "
        "the same paths; Ray is started on this machine alone if left out",
        scope=Scope.MACHINE,
    )
