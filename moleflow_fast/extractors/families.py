"""What a backbone gives by default: its layers, its width, and whether it is a ViT."""

from __future__ import annotations

import difflib

import timm
import torch
from timm.models import model_entrypoint
from torch import nn

from .backbone_error import BackboneError
from .capture import layer_candidates

_VIT_MODULES = ("beit", "deit", "eva", "vision_transformer", "vision_transformer_hybrid")
_WIDE = ("wide_resnet101", "efficientnet_b6", "efficientnet_b7", "convnext_base", "convnext_large")


def is_vit(backbone_name: str) -> bool:
    """Whether a timm name is a plain vision transformer (blocks of tokens on one grid).

    Raises:
        BackboneError: timm has no model of this name.
    """
    check_name(backbone_name)
    module = model_entrypoint(backbone_name.split(".")[0]).__module__
    return module.rpartition(".")[2] in _VIT_MODULES


def default_layers(backbone_name: str) -> tuple[str, ...]:
    """The layers of a CNN at strides 8 and 16.

    ResNet layer2, layer3; EfficientNet and MobileNetV2 blocks.2, blocks.4; ConvNeXt stages.1, stages.2;
    RegNet s2, s3.

    Raises:
        BackboneError: timm lists no such layers; the message names candidates for `layers`.
    """
    return _layers_at(backbone_name, (8, 16))


def high_res_layers(backbone_name: str) -> tuple[str, ...]:
    """The layers at strides 4, 8 and 16, for a 56x56 grid at 224 px: layer1, layer2, layer3 of a ResNet.

    Raises:
        BackboneError: as `default_layers`.
    """
    return _layers_at(backbone_name, (4, 8, 16))


def default_embed_dim(backbone_name: str) -> int:
    """Width D of the patch features: 1024 for the wide CNNs, 768 for the others, a ViT's own width."""
    if is_vit(backbone_name):
        return int(_skeleton(backbone_name).embed_dim)  # type: ignore[arg-type]
    return 1024 if any(name in backbone_name for name in _WIDE) else 768


def check_name(backbone_name: str) -> None:
    """Raise BackboneError, with near names, unless timm knows the backbone."""
    if timm.is_model(backbone_name):
        return
    near = difflib.get_close_matches(backbone_name.split(".")[0], timm.list_models(), n=5)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise BackboneError(f"timm {timm.__version__} has no model {backbone_name!r}{hint}")


def _layers_at(backbone_name: str, strides: tuple[int, ...]) -> tuple[str, ...]:
    check_name(backbone_name)
    model = _skeleton(backbone_name)
    modules = dict(model.named_modules())
    layers = {info["reduction"]: info["module"] for info in getattr(model, "feature_info", None) or []}
    found = [layers.get(stride) for stride in strides]
    if any(name not in modules for name in found):
        raise BackboneError(
            f"timm lists no layers of {backbone_name} at the strides {strides}: name them with --backbone_layers "
            f"(layers=[...]), candidates are {', '.join(layer_candidates(model))}"
        )
    return tuple(str(name) for name in found)


def _skeleton(backbone_name: str) -> nn.Module:
    """The module tree without memory for weights."""
    with torch.device("meta"):
        return timm.create_model(backbone_name, num_classes=0)
