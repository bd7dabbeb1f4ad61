"""One task of a run, from its features to its checkpoint: the same in the run's own process and in a worker."""

from __future__ import annotations

from typing import Any

from moleflow_fast.config.identity import result_options
from moleflow_fast.evaluation.diagnostics import task_diagnostics
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.system.files import write_json
from moleflow_fast.system.interruption import end_waits
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer import checkpoint, partial_state
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.task_state import BatchRecord, EpochRecord, Listener


def trainer_of(run: Run) -> MoLEContinualTrainer:
    """A trainer of the run's `MoLEFlow`, as the options want it."""
    options = run.options
    return MoLEContinualTrainer.over(
        run.moleflow, options, options.slow_lr_ratio, options.slow_blocks_k, logger=run.context.logger
    )


def train_task(
    run: Run,
    trainer: MoLEContinualTrainer,
    directory: RunDirectory,
    task_id: int,
    loader: FeatureLoader,
    listener: Listener | None = None,
) -> None:
    """Train a task, from its last stored state on if there is one.

    Writes its epochs, its state between epochs, diagnostics if wanted, and its checkpoint, which marks it complete.
    """

    def listen(record: EpochRecord | BatchRecord) -> None:
        if listener is not None:
            listener(record)
        if isinstance(record, EpochRecord):
            with phase("tables"):
                directory.append_epoch(record)

    options = run.options
    trainer.listener = listen
    belongs_to = _what_decides(run, trainer, directory, task_id, loader)
    keeper = partial_state.PartialState(
        directory.checkpoints, task_id, belongs_to, run.context.logger, options.state_seconds
    )
    with end_waits("after this epoch"):
        with phase("training"):
            trainer.train_task(task_id, run.tasks[task_id], loader, options.num_epochs, options.lr, keeper=keeper)
        if options.run_diagnostics:
            _diagnose(run, directory, task_id, loader)
        with phase("checkpoints"):
            checkpoint.save_task(
                directory.checkpoints,
                run.moleflow,
                task_id,
                run.checkpoint_options,
                trainer.promises_zero_forgetting,
            )
            partial_state.remove(directory.checkpoints, [task_id])


# Spelled differently in a worker; what they stand for is in the backbone's fingerprint.
_PLACES = ("data_path", "backbone_weights", "random_backbone", "device")


def _what_decides(
    run: Run, trainer: MoLEContinualTrainer, directory: RunDirectory, task_id: int, loader: FeatureLoader
) -> dict[str, Any]:
    """All that a task's training follows from, in JSON's types."""
    options = {name: value for name, value in result_options(run.options).items() if name not in _PLACES}
    frozen = trainer.promises_zero_forgetting
    built_on = range(min(task_id, 1) if frozen else task_id)
    return {
        **options,
        **run.checkpoint_options,
        "classes": run.tasks[task_id],
        "images": len(loader.source),
        "device": run.device.type,
        "built_on": [checkpoint.checksum(directory.checkpoints, t) for t in built_on],
    }


def _diagnose(run: Run, directory: RunDirectory, task_id: int, loader: FeatureLoader) -> None:
    patches, _ = next(iter(loader.epoch(0)))
    file = directory.path / "diagnostics" / f"task_{task_id}.json"
    write_json(file, task_diagnostics(run.moleflow, task_id, patches))
