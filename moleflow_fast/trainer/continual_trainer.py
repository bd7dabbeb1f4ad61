"""Learning one task after another: the shared base with the first, an expert with every one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor

from moleflow_fast.backend import flow_backend
from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.engine.plan import parts_of_a_step
from moleflow_fast.engine.training import DeviceSteps
from moleflow_fast.errors import UserError
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer.epochs import Epochs
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.loader_features import batches_of
from moleflow_fast.trainer.optimizer import AdamP
from moleflow_fast.trainer.schedule import cosine_rate, warmup_cosine_rate
from moleflow_fast.trainer.stage import Stage
from moleflow_fast.trainer.steps import HostSteps, Loss, Steps
from moleflow_fast.trainer.task_state import BatchRecord, EpochRecord, Listener, StateKeeper, TaskState
from moleflow_fast.utils.logger import TrainingLogger

CLIP_NORM = 0.5
LARGEST_LOSS = 1e8
WEIGHT_DECAY = 0.01
FAST_STAGE_FRACTION = 0.85


class TrainingDivergedError(UserError):
    """Every batch of an epoch had a loss or gradient that is not finite."""


class MoLEContinualTrainer:
    """Trains the tasks of a `MoLEFlow`, which it makes of its first arguments; `over` takes one that is there.

    Args:
        vit_extractor: callable images (B, 3, S, S) -> patches (B, H, W, D).
        pos_embed_generator: adds positions to patches.
        nf_model: the flow.
        args: any object; `batch_size` and `seed` are read where `train_task` is given a feature source.
        slow_lr_ratio, slow_blocks_k: the optional slow stage (`args.enable_slow_stage`).
        ablation_config: defaults to the model's.
        logger: where messages go; defaults to this module's logger. See `set_logger`.
    """

    def __init__(
        self,
        vit_extractor: Any,
        pos_embed_generator: PositionalEmbeddingGenerator,
        nf_model: MoLESpatialAwareNF,
        args: Any = None,
        device: torch.device | str = "cpu",
        slow_lr_ratio: float = 0.2,
        slow_blocks_k: int = 2,
        ablation_config: AblationConfig | None = None,
        logger: logging.Logger | TrainingLogger | None = None,
        listener: Listener | None = None,
    ) -> None:
        moleflow = MoLEFlow(vit_extractor, pos_embed_generator, nf_model, device, ablation_config)
        self._set_up(moleflow, args, slow_lr_ratio, slow_blocks_k, logger, listener)

    @classmethod
    def over(
        cls,
        moleflow: MoLEFlow,
        args: Any = None,
        slow_lr_ratio: float = 0.2,
        slow_blocks_k: int = 2,
        logger: logging.Logger | TrainingLogger | None = None,
    ) -> Self:
        """A trainer of a `MoLEFlow`, which may have learned tasks before."""
        trainer = cls.__new__(cls)
        trainer._set_up(moleflow, args, slow_lr_ratio, slow_blocks_k, logger, None)
        return trainer

    def _set_up(
        self,
        moleflow: MoLEFlow,
        args: Any,
        slow_lr_ratio: float,
        slow_blocks_k: int,
        logger: logging.Logger | TrainingLogger | None,
        listener: Listener | None,
    ) -> None:
        self.moleflow = moleflow
        self.args = args if args is not None else SimpleNamespace()
        self.slow_lr_ratio = slow_lr_ratio
        self.slow_blocks_k = slow_blocks_k
        self.logger: Any = logger or logging.getLogger(__name__)
        self.listener: Listener = listener or (lambda record: None)
        self._said_again = False

    @property
    def nf_model(self) -> MoLESpatialAwareNF:
        return self.moleflow.flow

    @property
    def config(self) -> AblationConfig:
        return self.moleflow.config

    @property
    def device(self) -> torch.device:
        return self.moleflow.device

    @property
    def router(self) -> PrototypeRouter:
        return self.moleflow.router

    @property
    def task_classes(self) -> dict[int, list[str]]:
        return self.moleflow.task_classes

    @property
    def vit_extractor(self) -> Any:
        """What makes patches of images."""
        return self.moleflow.extractor

    @property
    def feature_extractor(self) -> Any:
        """The same."""
        return self.moleflow.extractor

    @property
    def pos_embed_generator(self) -> PositionalEmbeddingGenerator:
        return self.moleflow.positions

    @property
    def seed(self) -> int:
        return int(getattr(self.args, "seed", 0))

    @property
    def enable_slow_stage(self) -> bool:
        return bool(getattr(self.args, "enable_slow_stage", False))

    @property
    def promises_zero_forgetting(self) -> bool:
        """Whether nothing that an earlier task uses can change any more."""
        return not (self.enable_slow_stage or self.config.no_freeze_base)

    def set_logger(self, logger: logging.Logger | TrainingLogger) -> None:
        """Send messages there from now on; a `TrainingLogger` hears of every epoch too."""
        self.logger = logger

    # -- training ------------------------------------------------------------------------------------

    def train_task(
        self,
        task_id: int,
        task_classes: Sequence[str],
        train_loader: FeatureLoader | Iterable,
        num_epochs: int = 10,
        lr: float = 1e-4,
        log_interval: int = 10,
        global_class_to_idx: dict[str, int] | None = None,
        keeper: StateKeeper | None = None,
    ) -> list[EpochRecord]:
        """Learn a task; returns a record per epoch.

        Args:
            train_loader: a `FeatureLoader`, or any iterable of batches whose first item is images.
            log_interval: epochs between two log lines.
            keeper: is given the state after every epoch; what it has stored is gone on from, to the same bits, and
                the listener hears of those epochs again. For a `FeatureLoader` alone: other orders are their own.

        Raises:
            TrainingDivergedError: an epoch without a single usable batch.
        """
        del global_class_to_idx  # published signature; labels play no part in the training
        self.task_classes[task_id] = list(task_classes)
        told = self.logger if isinstance(self.logger, TrainingLogger) else None
        if told:
            told.log_task_start(task_id, task_classes, num_epochs, lr)
        self._begin_task(task_id)
        batches = self._as_epochs(train_loader, task_classes)
        stages = self._stages(task_id, num_epochs, lr)
        self._fit_front(task_id, batches)
        records = self._go_on(task_id, stages, keeper)
        batches_in = self._conditioned(task_id, batches) if len(records) < num_epochs else batches
        for stage in stages:
            for epoch in range(len(records) - stage.first_epoch, stage.epochs):
                record = self._train_epoch(task_id, stage, epoch, num_epochs, batches_in)
                records.append(record)
                self.listener(record)
                if told:
                    rate = {"LR": record.learning_rate}
                    told.log_epoch(task_id, record.epoch, num_epochs, record.loss, _published_stage(record), rate)
                if keeper is not None:
                    keeper.epoch_ended(partial(self._state, task_id, stage, records))
                if record.epoch % log_interval == 0:
                    self.logger.debug(
                        "task %d epoch %d/%d loss %.4f", task_id, record.epoch + 1, num_epochs, record.loss
                    )
            stage.end()
        self._end_task(task_id, batches)
        if told:
            told.log_task_complete(task_id)
        return records

    def _go_on(self, task_id: int, stages: Sequence[Stage], keeper: StateKeeper | None) -> list[EpochRecord]:
        """Take on the state that the keeper has stored, if it fits; returns the epochs done, none without one."""
        state = keeper.stored() if keeper is not None else None
        if keeper is None or state is None:
            return []
        try:
            self._take_on(task_id, stages, state)
        except ValueError as error:
            keeper.refuse(str(error))
            return []
        for record in state.records:
            self.listener(record)
        return list(state.records)

    def _take_on(self, task_id: int, stages: Sequence[Stage], state: TaskState) -> None:
        """Raises ValueError, with nothing changed, where the state does not fit."""
        own = self.moleflow.learned(task_id, self.promises_zero_forgetting)
        wrong = [n for n in own.keys() | state.model.keys() if _form(own.get(n)) != _form(state.model.get(n))]
        if wrong:
            raise ValueError(f"it does not fit the model: {', '.join(sorted(wrong)[:8])}")
        done = len(state.records)
        for stage in stages:
            if stage.first_epoch < done < stage.first_epoch + stage.epochs:
                self._begin(task_id, stage)
                stage.optimizer.load_moments(state.optimizer)
        if task_id == 0 and not self.config.has_front:
            self.nf_model.feature_statistics.load_running(state.statistics)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state.model[name])

    def _state(self, task_id: int, stage: Stage, records: Sequence[EpochRecord]) -> TaskState:
        statistics = self.nf_model.feature_statistics.running() if task_id == 0 else {}
        return TaskState(
            list(records),
            self.moleflow.learned(task_id, self.promises_zero_forgetting),
            stage.optimizer.moments(),
            statistics,
        )

    def _begin_task(self, task_id: int) -> None:
        # Its own stream of random numbers: a resumed run creates the same expert as an uninterrupted one.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + 7919 * (task_id + 1))
            self.nf_model.add_task(task_id)
        if self.config.no_freeze_base:
            self.nf_model.unfreeze_all_base()
        elif task_id > 0:
            self.nf_model.freeze_all_base()
        for other in self.nf_model.task_ids:
            for parameter in self.nf_model.get_fast_params(other):
                parameter.requires_grad_(other == task_id)

    def _fit_front(self, task_id: int, batches: Epochs) -> None:
        """Estimate the Gaussian front of a task, if it has one, from every image but those with broken features."""
        front = self.nf_model.front(task_id)
        if front is None:
            return
        left_out: set[int] = set()

        def patches() -> Iterator[Tensor]:
            seen = 0
            for x in batches.patches():
                whole = x.isfinite().flatten(1).all(1)
                left_out.update(seen + i for i in (~whole).nonzero().flatten().tolist())
                seen += len(x)
                yield self.moleflow.add_positions(x if bool(whole.all()) else x[whole])

        front.fit(patches)
        if left_out:
            self.logger.warning(
                "task %d: %d images with non-finite features left out of its Gaussian front", task_id, len(left_out)
            )

    def _conditioned(self, task_id: int, batches: Epochs) -> Epochs:
        """Batches as the steps take them: behind the Gaussian front, which is fixed while its task trains."""
        front = self.nf_model.front(task_id)
        if front is None:
            return batches
        if not batches.in_memory and not self._said_again:
            self._said_again = True
            self.logger.warning(
                "features are not held in memory, so every step computes the Gaussian front again, and of the images "
                "that it was estimated from; more --device_cache_gb, no --use_rotation_aug and no --no_feature_cache "
                "let it be computed once, of images as if they were new"
            )
        return batches.behind(front, self.moleflow.add_positions)

    def _end_task(self, task_id: int, batches: Epochs) -> None:
        self.nf_model.freeze()
        if task_id == 0:
            self.nf_model.finalize_reference_stats()
        self.build_prototype(task_id, batches.image_features())

    def build_prototype(self, task_id: int, image_features: Tensor) -> None:
        """Give the router the prototype of a task from image-level features (n, D); non-finite rows are left out."""
        finite = image_features.isfinite().all(dim=1)
        if not bool(finite.all()):
            self.logger.warning(
                "task %d: %d images with non-finite features left out of its prototype", task_id, int((~finite).sum())
            )
        with phase("routing"):
            prototype = self.router.new_prototype(task_id, self.task_classes.get(task_id))
            prototype.update(image_features[finite])
            self.router.add_prototype(prototype)

    def _as_epochs(self, loader: FeatureLoader | Iterable, task_classes: Sequence[str]) -> Epochs:
        if not isinstance(loader, FeatureLoader):
            return Epochs(batches_of(loader, self.vit_extractor, self.device, self.args, self.logger))
        if loader.smaller_than_a_batch:
            self.logger.warning(
                "%s: %d training images are fewer than a batch of %d; each epoch is one batch of all of them",
                ", ".join(task_classes),
                len(loader.source),
                loader.batch_size,
            )
        return Epochs(loader)

    def _stages(self, task_id: int, num_epochs: int, lr: float) -> list[Stage]:
        from_scratch = task_id == 0 or self.config.use_task_separated
        # Behind a front the first task too starts from what is good already: the identity.
        rate = cosine_rate if from_scratch and not self.config.has_front else warmup_cosine_rate
        params = self.nf_model.get_trainable_params(task_id)
        if task_id == 0 or not self.enable_slow_stage:
            return [Stage("train", params, num_epochs, 0, lr, rate, WEIGHT_DECAY)]
        fast = int(FAST_STAGE_FRACTION * num_epochs)
        slow_lr = lr * self.slow_lr_ratio
        slow_params = self.nf_model.get_base_params_for_slow_update(self.slow_blocks_k)
        return [
            Stage("fast", params, fast, 0, lr, rate, WEIGHT_DECAY),
            Stage("slow", slow_params, num_epochs - fast, fast, slow_lr, cosine_rate, WEIGHT_DECAY / 2),
        ]

    def _train_epoch(self, task_id: int, stage: Stage, epoch: int, num_epochs: int, batches: Epochs) -> EpochRecord:
        if epoch == 0:
            self._begin(task_id, stage)
        number = stage.first_epoch + epoch
        rate = stage.set_rate(epoch)
        self.nf_model.train()
        started = time.perf_counter()
        images = 0
        for batch, (patches, _) in enumerate(batches.epoch(number)):
            images += patches.shape[0]
            mean = self._start_step(task_id, stage, patches)
            self.listener(BatchRecord(task_id, number, num_epochs, batch + 1, len(batches), patches.shape[0], mean))
        total, counted, skipped = stage.steps.finish()
        if counted == 0:
            raise TrainingDivergedError(
                f"task {task_id}, epoch {number + 1}: none of {skipped} batches had a finite loss below "
                f"{LARGEST_LOSS:.0e}; lower --lr (now {stage.lr:g}) or raise --lambda_logdet "
                f"(now {self.config.lambda_logdet:g})"
            )
        if skipped:
            self.logger.warning(
                "task %d, epoch %d: skipped %d of %d batches whose loss or gradient was not finite",
                task_id,
                number + 1,
                skipped,
                skipped + counted,
            )
        seconds = time.perf_counter() - started
        return EpochRecord(task_id, stage.name, number, num_epochs, total / counted, rate, images, seconds, skipped)

    def _start_step(self, task_id: int, stage: Stage, patches: Tensor) -> float:
        """Take an optimizer step, or start one on the device; returns the epoch's mean loss as far as it is known."""
        if task_id == 0 and not self.config.has_front:
            self.nf_model.update_reference_stats(self.moleflow.add_positions(patches))
        return stage.steps(patches)

    def _begin(self, task_id: int, stage: Stage) -> None:
        """Begin a stage, with steps on the device where Triton kernels run the flow."""
        loss = self._whole_loss(plain=stage.name == "slow")

        def new_steps(optimizer: AdamP) -> Steps:
            if self._steps_on_device(task_id):
                return DeviceSteps(loss, optimizer, CLIP_NORM, LARGEST_LOSS, parts_of_a_step())
            return HostSteps(loss, optimizer, CLIP_NORM, LARGEST_LOSS, self.nf_model.runner.weights_fixed)

        stage.begin(self.nf_model, new_steps)

    @property
    def steps_are_graphs(self) -> bool:
        """Whether training steps run as CUDA graphs, and not one operation after another."""
        return self.device.type == "cuda" and self._steps_on_device(None)

    def _steps_on_device(self, task_id: int | None) -> bool:
        features = torch.empty(0, device=self.device)
        why_not = self.nf_model.runner.why_not_compiled(self.nf_model.expert(task_id).flow, features)
        return flow_backend(self.device) == "triton" and why_not is None

    def _whole_loss(self, plain: bool) -> Loss:
        """The loss of patches (B, H, W, D) as batches give them."""
        return lambda patches: self._loss(self._with_positions(patches), plain)

    def _with_positions(self, patches: Tensor) -> Tensor:
        """What the loss takes; a front has had the positions already."""
        return patches if self.config.has_front else self.moleflow.add_positions(patches)

    def _loss(self, x: Tensor, plain: bool) -> Tensor:
        config = self.config
        tail = config.use_tail_aware_loss and not plain
        return self.nf_model.density_loss(
            x,
            tail_weight=config.tail_weight if tail else None,
            tail_top_k_ratio=config.tail_top_k_ratio,
            lambda_logdet=0.0 if plain else config.lambda_logdet,
            conditioned=config.has_front,
        )

    # -- scoring -------------------------------------------------------------------------------------

    def inference(self, images: Tensor, task_id: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Score images (B, 3, S, S), uint8 or normalised and of floating point: see `MoLEFlow`."""
        return self.moleflow(images.to(self.device), task_id)


def _published_stage(record: EpochRecord) -> str:
    if record.stage == "slow":
        return "SLOW"
    return "BASE" if record.task_id == 0 else "FAST"


def _form(tensor: Tensor | None) -> object:
    return None if tensor is None else (tensor.shape, tensor.dtype)
