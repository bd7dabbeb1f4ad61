"""Options of a run: what is learned, from which images, and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from moleflow_fast.config.ablation import AblationConfig, command_line_ablation
from moleflow_fast.config.data_sets import DATASETS, DEMO
from moleflow_fast.config.option import POSITIVE, Bound, Comparison, Scope, Work, at_least, option
from moleflow_fast.config.requested import BACKBONE_PRECISIONS

INTERPOLATIONS = ("bilinear", "bicubic")
# The central square; the picture squeezed to the square; overlapping squares along its long side.
VIEWS = ("crop", "whole", "tiles")

_data = partial(option, "data")
_backbone = partial(option, "backbone", factor="backbone", comparison=Comparison.PROTOCOL)
_flow = partial(option, "flow")
_training = partial(option, "training")
_evaluation = partial(option, "evaluation")

_MULTIPLE_OF_4 = Bound("must be a multiple of 4 (2-D positions)", lambda width: width % 4 == 0)


@dataclass(frozen=True)
class LearningOptions:
    """The groups data, backbone, flow, training and evaluation of `--help`, and the method's switches."""

    dataset: str = _data(
        DEMO,
        "demo (synthetic, written on the spot), mvtec, visa, mpdd, or folder: any directory in MVTec AD layout "
        "(<class>/train/good, <class>/test/<type>, <class>/ground_truth/<type>); or lists of images: csv (columns "
        "image, label, split, mask, class), coco, datumaro, real_iad: see docs/data_formats.md",
        choices=DATASETS,
        comparison=Comparison.GROUP,
        work=Work.NONE,
    )
    data_path: str | None = _data(
        None,
        "folder that holds the class folders, or the list of images",
        evaluate="where the images are now, if they have moved",
        is_path=True,
        comparison=Comparison.CIRCUMSTANCE,
        work=Work.NONE,
    )
    task_classes: tuple[str, ...] | None = _data(
        None,
        "classes to learn, in order; all of the data set if left out",
        comparison=Comparison.GROUP,
        work=Work.NONE,
    )
    cl_scenario: str = _data(
        "1-1",
        "classes per task, base-inc: 1-1 one by one, 14-1 fourteen first, 3-3, 10-5, ...",
        comparison=Comparison.GROUP,
        work=Work.NONE,
    )
    img_size: int = _data(
        224,
        "side of the square images that the backbone sees, pixels",
        at_least(1),
        demo=128,
        comparison=Comparison.PROTOCOL,
    )
    msk_size: int | None = _data(
        None,
        "side of masks and of the maps they are compared with, pixels; the image size if left out",
        at_least(1),
        comparison=Comparison.PROTOCOL,
    )
    view: str = _data(
        "crop",
        "what is seen of a picture that is not square: crop, the central square (as published); whole, all of it "
        "squeezed to the square; tiles, all of it in overlapping squares along its long side, with one map: the "
        "finest, at several times the work; whole for --dataset folder unless given",
        choices=VIEWS,
        work=Work.TIME,
    )
    use_rotation_aug: bool = _data(
        False,
        "rotate training images at random, anew every epoch (switches the feature cache off)",
        comparison=Comparison.PROTOCOL,
        work=Work.TIME,
    )
    rotation_degrees: float = _data(180.0, "largest rotation", acts_with=("use_rotation_aug", True), work=Work.TIME)

    backbone_name: str = _backbone(
        "wide_resnet50_2", "any timm model", demo="resnet18", factor="", comparison=Comparison.GROUP
    )
    backbone_weights: str | None = _backbone(
        None,
        "file with its weights, safetensors or torch (tensors only; never runs pickled code)",
        is_path=True,
        work=Work.NONE,
    )
    random_backbone: bool = _backbone(
        False, "go on with random weights (for trials: detection will be poor)", work=Work.TIME
    )
    backbone_layers: tuple[str, ...] | None = _backbone(
        None, "CNN: module names whose feature maps are used, e.g. layer2 layer3"
    )
    vit_blocks: tuple[int, ...] | None = _backbone(None, "ViT: zero-based blocks to average, e.g. 1 3 5 11")
    use_high_res: bool = _backbone(False, "ResNets: layer1 too, so 56x56 patches at 224 px")
    backbone_precision: str = _backbone(
        "fp32",
        "what the frozen backbone computes in; how far its features are from fp32 is reported",
        choices=tuple(BACKBONE_PRECISIONS),
    )
    embed_dim: int | None = _backbone(
        None, "width of patch features; the backbone's usual one if left out", at_least(1), _MULTIPLE_OF_4, demo=128
    )

    num_coupling_layers: int = _flow(
        8,
        "coupling blocks of the shared base flow; 0 leaves the task flows alone",
        at_least(0),
        demo=4,
        factor="coupling_layers",
    )
    lora_rank: int = _flow(64, "rank of the LoRA experts", at_least(1), demo=16, acts_with=("use_lora", True))
    lora_alpha: float = _flow(1.0, "their scale: alpha / rank", acts_with=("use_lora", True))
    ablation: AblationConfig = field(default_factory=command_line_ablation)

    num_epochs: int = _training(
        60,
        "epochs per task; 0, with --adapter_mode gaussian, leaves the flow at the identity",
        at_least(0),
        demo=30,
        factor="epochs",
        comparison=Comparison.PROTOCOL,
        work=Work.NONE,
    )
    lr: float = _training(
        2e-4,
        "peak learning rate",
        POSITIVE,
        demo=1e-3,
        factor="learning_rate",
        work=Work.NONE,
    )
    batch_size: int = _training(16, "images per step", at_least(1), comparison=Comparison.PROTOCOL)
    seed: int = _training(
        0,
        "decides initial weights, order of images and random backbones",
        comparison=Comparison.CIRCUMSTANCE,
        decided_by_sweep=True,
        work=Work.NONE,
    )
    enable_slow_stage: bool = _training(
        False, "later tasks: spend the last 15 percent of epochs on the last base blocks (forgets)"
    )
    slow_lr_ratio: float = _training(
        0.2,
        "its learning rate, as a fraction of --lr",
        acts_with=("enable_slow_stage", True),
        work=Work.TIME,
    )
    slow_blocks_k: int = _training(2, "how many blocks it trains", at_least(0), acts_with=("enable_slow_stage", True))

    score_smooth_sigma: float = _evaluation(
        4.0,
        "Gaussian smoothing of pixel maps, pixels (fixed: never chosen on test data)",
        at_least(0),
        evaluate="another Gaussian smoothing, pixels",
        comparison=Comparison.PROTOCOL,
    )
    interp_mode: str = _evaluation(
        "bilinear",
        "patch map to pixel map",
        choices=INTERPOLATIONS,
        evaluate="another way from patches to pixels",
        comparison=Comparison.PROTOCOL,
    )
    heatmaps: int = _evaluation(6, "pictures per class", at_least(0), scope=Scope.MACHINE)
