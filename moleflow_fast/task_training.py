"""One task of a run, from its features to its checkpoint: the same in the run's own process and in a worker."""

from __future__ import annotations

from moleflow_fast.evaluation.diagnostics import task_diagnostics
from moleflow_fast.files import write_json
from moleflow_fast.run_directory import RunDirectory
from moleflow_fast.run_parts import RunParts
from moleflow_fast.trainer import checkpoint
from moleflow_fast.trainer.continual_trainer import BatchRecord, EpochRecord, Listener
from moleflow_fast.trainer.feature_loader import FeatureLoader


def train_task(
    run: RunParts, directory: RunDirectory, task_id: int, loader: FeatureLoader, listener: Listener | None = None
) -> None:
    """Train a task and write its epochs, diagnostics if wanted, and its checkpoint, which marks the task complete."""

    def listen(record: EpochRecord | BatchRecord) -> None:
        if listener is not None:
            listener(record)
        if isinstance(record, EpochRecord):
            directory.append_epoch(record)

    options = run.options
    run.trainer.listener = listen
    run.trainer.train_task(task_id, run.tasks[task_id], loader, options.num_epochs, options.lr)
    if options.run_diagnostics:
        _diagnose(run, directory, task_id, loader)
    checkpoint.save_task(directory.checkpoints, run.trainer, task_id, run.checkpoint_options)


def _diagnose(run: RunParts, directory: RunDirectory, task_id: int, loader: FeatureLoader) -> None:
    patches, _ = next(iter(loader.epoch(0)))
    file = directory.path / "diagnostics" / f"task_{task_id}.json"
    write_json(file, task_diagnostics(run.trainer, task_id, patches))
