"""Tasks that a run did not learn itself just now: from its own checkpoints, or from others."""

from __future__ import annotations

from pathlib import Path

from moleflow_fast.data.stitching import picture_features
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.system.phases import phase
from moleflow_fast.system.tensor_file import CheckpointError
from moleflow_fast.trainer import checkpoint
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.published_checkpoint import load_published


def load(run: Run, directory: RunDirectory, tasks: int | None = None) -> list[int]:
    """Bring back all complete tasks, or the first `tasks` of them; returns their ids.

    Raises:
        CheckpointError: nothing to load, a damaged file, or another configuration.
    """
    with phase("checkpoints"):
        done = checkpoint.load_tasks(directory.checkpoints, run.moleflow, run.checkpoint_options, tasks)
    _require_own_classes(run, directory.checkpoints)
    run.tasks.retire(run.moleflow.router)
    return done


def load_one(run: Run, directory: RunDirectory, task_id: int) -> None:
    """Take in a task that was trained before or elsewhere; those that it builds on are there.

    Raises:
        CheckpointError: a damaged file, or another configuration.
    """
    with phase("checkpoints"):
        checkpoint.load_task(directory.checkpoints, run.moleflow, task_id, run.checkpoint_options)
    _require_own_classes(run, directory.checkpoints)
    run.tasks.retire(run.moleflow.router)


def load_from(run: Run, trainer: MoLEContinualTrainer, path: Path) -> list[int]:
    """Take over the tasks of `--load_checkpoint`, of a run or published; returns their ids.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of other classes or another configuration.
    """
    ours = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if checkpoint.completed_tasks(ours):
        done = checkpoint.load_tasks(ours, run.moleflow, run.checkpoint_options)
        _require_own_classes(run, path)
        return done
    done = load_published(path, run.moleflow)
    if done != list(range(len(done))) or len(done) > len(run.tasks):
        raise CheckpointError(
            f"{path} holds tasks {', '.join(map(str, done))}, but --task_classes and --cl_scenario make tasks 0 to "
            f"{len(run.tasks) - 1}; name the classes that it was trained on, in order"
        )
    for task_id in done:
        run.moleflow.task_classes[task_id] = run.tasks[task_id]
        trainer.build_prototype(task_id, picture_features(run.features.training(run.tasks[task_id])))
    return done


def _require_own_classes(run: Run, path: Path) -> None:
    for task_id, classes in run.moleflow.task_classes.items():
        asked = run.tasks[task_id] if task_id < len(run.tasks) else []
        if classes != asked:
            raise CheckpointError(
                f"{path}: task {task_id} learned {', '.join(classes)}, but the options make it "
                f"{', '.join(asked) or 'nothing'}; give the same --task_classes and --cl_scenario"
            )
