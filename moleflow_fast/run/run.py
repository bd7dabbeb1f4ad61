"""A run as its pieces: each is made once, when first needed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from moleflow_fast.config.options import RunOptions
from moleflow_fast.evaluation.scorer import Scorer
from moleflow_fast.extractors import Parity, PatchExtractor
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.run.backbone import drawn_as_by
from moleflow_fast.run.building import build_extractor, build_moleflow, checkpoint_options, narrow
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.features import RunFeatures
from moleflow_fast.run.images import RunImages
from moleflow_fast.run.tasks import Tasks


class Run:
    """
    Args:
        tasks, moleflow: where they come from elsewhere than the options.
        weights_of: a run that drew random weights for such a backbone before: they are taken.

    Attributes:
        parity: how far the backbone in its precision is from fp32, once that was measured.
    """

    def __init__(
        self,
        context: RunContext,
        tasks: Tasks | None = None,
        moleflow: MoLEFlow | None = None,
        weights_of: RunDirectory | None = None,
    ) -> None:
        self.context = context
        self.tasks = Tasks(context.options) if tasks is None else tasks
        self.images = RunImages(context, self.tasks)
        self.weights_of = weights_of
        self.parity: Parity | None = None
        if moleflow is not None:
            self.moleflow = moleflow

    @property
    def options(self) -> RunOptions:
        return self.context.options

    @property
    def console(self) -> RunConsole:
        return self.context.console

    @property
    def device(self) -> torch.device:
        return self.context.device

    @cached_property
    def moleflow(self) -> MoLEFlow:
        extractor = build_extractor(self.context, self.weights_of)
        with drawn_as_by(self.weights_of):
            self.parity = narrow(extractor, self.context, self.tasks, self.images)
        return build_moleflow(self.options, extractor, self.device)

    @property
    def extractor(self) -> PatchExtractor:
        extractor = self.moleflow.extractor
        assert isinstance(extractor, PatchExtractor)
        return extractor

    @cached_property
    def features(self) -> RunFeatures:
        return RunFeatures(self.context, self.tasks, self.images, self.extractor)

    @cached_property
    def scorer(self) -> Scorer:
        options = self.options
        return Scorer(
            self.moleflow, options.mask_size, options.score_smooth_sigma, options.interp_mode, options.batch_size
        )

    @property
    def checkpoint_options(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the run that loads it."""
        return checkpoint_options(self.options, self.extractor)
