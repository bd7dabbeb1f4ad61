"""From the options of a run to its extractor and its `MoLEFlow`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moleflow_fast.config.options import RunOptions
from moleflow_fast.extractors import (
    Parity,
    PatchExtractor,
    WeightsUnavailable,
    create_feature_extractor,
    high_res_layers,
    reduce_precision,
)
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
from moleflow_fast.run.backbone import drawn_as_by
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.images import RunImages
from moleflow_fast.run.tasks import Tasks
from moleflow_fast.system.phases import phase

_PARITY_IMAGES = 8


def build_extractor(context: RunContext, weights_of: RunDirectory | None = None) -> PatchExtractor:
    """The backbone in fp32; the demo goes on with random weights where there are no others, and says so.

    Args:
        weights_of: a run that drew random weights for such a backbone before: they are taken.

    Raises:
        WeightsUnavailable: of another data set than the demo.
    """
    options = context.options
    drawn = _drawn(options, weights_of)
    with phase("backbone"), drawn_as_by(weights_of):
        if drawn is not None or options.random_backbone:
            return _create(context, False, drawn)
        try:
            return _create(context, None, None)
        except WeightsUnavailable as error:
            if options.dataset != "demo":
                raise
            context.console.warn(f"{error}\nThe demo goes on with RANDOM backbone weights: expect poor detection.")
            return _create(context, False, None)


def narrow(extractor: PatchExtractor, context: RunContext, tasks: Tasks, images: RunImages) -> Parity | None:
    """Bring it to `--backbone_precision`, compared with fp32 on a few training images; None where that is fp32."""
    precision = context.options.backbone_precision
    if precision == "fp32":
        return None
    dataset = images.training(tasks[next(t for t in tasks.active if tasks.have_images(t))])
    some = torch.stack([dataset[i][0] for i in range(min(_PARITY_IMAGES, len(dataset)))])
    with phase("backbone"):
        return reduce_precision(extractor, precision, some)


def build_moleflow(options: RunOptions, extractor: PatchExtractor, device: torch.device) -> MoLEFlow:
    """One that has learned nothing; its first weights are of the run's seed."""
    _seed(options.seed, device)
    flow = MoLESpatialAwareNF(**_flow_options(options, extractor), device=device, ablation_config=options.ablation)
    return MoLEFlow(extractor, PositionalEmbeddingGenerator(device), flow, device)


def checkpoint_options(options: RunOptions, extractor: PatchExtractor) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that loads it."""
    backbone = {"backbone": extractor.fingerprint()}
    return {**_flow_options(options, extractor), **backbone, **vars(options.ablation)}


def _drawn(options: RunOptions, weights_of: RunDirectory | None) -> Path | None:
    """The file with random weights that were drawn before."""
    if weights_of is None or options.backbone_weights or not weights_of.backbone.exists():
        return None
    return weights_of.backbone


def _create(context: RunContext, pretrained: bool | None, drawn: Path | None) -> PatchExtractor:
    options = context.options
    layers = high_res_layers(options.backbone_name) if options.use_high_res else options.backbone_layers
    return create_feature_extractor(
        options.backbone_name,
        (3, options.img_size, options.img_size),
        options.embed_dim,
        context.device,
        blocks_to_extract=options.vit_blocks,
        layers=layers,
        weights=options.backbone_weights,
        pretrained=pretrained,
        drawn=drawn,
    )


def _flow_options(options: RunOptions, extractor: PatchExtractor) -> dict[str, Any]:
    return {
        "embed_dim": extractor.embed_dim,
        "coupling_layers": options.num_coupling_layers,
        "lora_rank": options.lora_rank,
        "lora_alpha": options.lora_alpha,
    }


def _seed(seed: int, device: torch.device) -> None:
    """The generators that a flow is made with. Those of other devices are whoever's process this is."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
