"""Backbones with weights: from a file, from timm, or random. No file is ever allowed to run code."""

from __future__ import annotations

import contextlib
import logging
import pickle
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from moleflow_fast.errors import UserError

from . import random_weights
from .backbone_error import BackboneError
from .batch_norms import settle_batch_norms
from .families import check_name

logger = logging.getLogger(__name__)

RANDOM_SEED = 0
RANDOM = f"random (seed {RANDOM_SEED})"
_PROBE_SECONDS = 3.0
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
_HINT_NAMES = (
    "wide_resnet50_2", "wide_resnet101_2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "efficientnet_b4", "efficientnet_b5",
    "efficientnet_b6", "efficientnet_b7", "convnext_tiny", "convnext_small", "convnext_base",
    "convnext_large", "regnety_032", "regnety_160", "vit_tiny_patch16_224", "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_base_patch14_dinov2", "deit_base_distilled_patch16_224",
)  # fmt: skip


class WeightsError(UserError, ValueError):
    """A weights file that cannot be read or does not fit the model."""


class WeightsUnavailable(UserError, RuntimeError):
    """Pretrained weights that can neither be downloaded nor found in a cache."""


def create_backbone(
    name: str,
    pretrained: bool | None = None,
    weights_file: str | Path | None = None,
    input_shape: tuple[int, int, int] = (3, 224, 224),
    drawn: Path | None = None,
) -> tuple[nn.Module, str]:
    """Make a timm model without classifier, on the CPU, in eval mode, and say where its weights come from.

    Args:
        name: any timm model name.
        pretrained: False for random weights, the same in every process like this one; None or True for timm's own,
            unless a file is given.
        weights_file: safetensors or torch file, see `load_backbone_weights`.
        input_shape: (channels, height, width); models with a fixed input size are resized after loading.
        drawn: file with the random weights that are wanted, see `random_weights`.

    Returns:
        The model and "file NAME", "timm pretrained" or "random (seed 0)". Global random state is untouched.

    Raises:
        BackboneError: unknown name, or both `pretrained=True` and a file.
        WeightsError: the file cannot be read or does not fit.
        WeightsUnavailable: timm's weights cannot be had here.
        DamagedWeights: `drawn` is not what a run writes.
    """
    check_name(name)
    if pretrained and weights_file is not None:
        raise BackboneError("pretrained=True and a weights file exclude each other")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        model, origin = _with_weights(name, pretrained, weights_file, input_shape[0])
        if origin == RANDOM and drawn is None:
            _settle(model, name, input_shape[0])
        _set_input_size(model, (input_shape[1], input_shape[2]))
    if drawn is not None:
        random_weights.restore(model, drawn)
    return model.eval(), origin


def load_backbone_weights(model: nn.Module, file: str | Path) -> list[str]:
    """Load a weights file into a timm model that was made with `num_classes=0`.

    Reads safetensors, or a torch file with `weights_only=True`. Unwraps the usual containers (`state_dict`,
    `model`) and prefixes (`module.`); the classifier is left out; all other keys must fit exactly.

    Returns:
        The names of the classifier keys that were left out.

    Raises:
        WeightsError: damaged file, a file that would need to run code, or keys that do not fit.
    """
    path = Path(file)
    state = _strip_prefixes(_unwrap(_read(path), path))
    expected = model.state_dict()
    dropped = [key for key in state if key not in expected and _is_classifier_key(key, model)]
    if dropped:
        logger.info("%s: classifier left out (%s)", path.name, ", ".join(dropped))
    state = {key: value for key, value in state.items() if key not in dropped}
    _check_fit(state, expected, path)
    model.load_state_dict(state, strict=False)  # only batch-norm counters may be missing, see _check_fit
    return dropped


def _with_weights(
    name: str, pretrained: bool | None, weights_file: str | Path | None, channels: int
) -> tuple[nn.Module, str]:
    if weights_file is None and pretrained is not False:
        return _timm_pretrained(name, channels), "timm pretrained"
    model = timm.create_model(name, num_classes=0, in_chans=channels)
    if weights_file is None:
        return model, RANDOM
    load_backbone_weights(model, weights_file)
    return model, f"file {Path(weights_file).name}"


def _set_input_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Resize position embeddings and windows where the model is bound to an input size."""
    trained = _trained_size(model)
    if trained in (None, size):
        return
    set_input_size = getattr(model, "set_input_size", None)
    if set_input_size is None:
        raise BackboneError(
            f"this backbone takes only images of {trained} pixels, not {size}: give --img_size, or another backbone"
        )
    set_input_size(img_size=size)


def _settle(model: nn.Module, name: str, channels: int) -> None:
    try:
        settle_batch_norms(model, channels, _trained_size(model))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(
            f"{name} does not run with random weights ({reason}): give its weights with --backbone_weights, or another "
            "backbone"
        ) from error


def _trained_size(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) of the images of a model that takes no others; LeViT's positions are of one grid."""
    config = getattr(model, "pretrained_cfg", {})
    return tuple(config["input_size"][1:]) if config.get("fixed_input_size") else None


def _timm_pretrained(name: str, channels: int) -> nn.Module:
    try:
        with _offline_when_unreachable():
            return timm.create_model(name, pretrained=True, num_classes=0, in_chans=channels)
    except Exception as error:  # timm and its download layers raise many unrelated types
        raise WeightsUnavailable(
            f"no pretrained weights for {name!r}: they are neither cached nor downloadable here "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). "
            "Give a file with --backbone_weights FILE (safetensors or a torch state dict of this timm "
            "model), or run once with network access to fill the cache, or ask for random weights with "
            "--random_backbone (pretrained=False)."
        ) from error


@contextlib.contextmanager
def _offline_when_unreachable() -> Iterator[None]:
    """Let the hub client use its cache only when the hub cannot be reached: its own retries take a minute."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except OSError:
        return False
    return True


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; check --backbone_weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is no whole safetensors file ({error}): fetch it again") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors or is no torch file; reading it would mean running code "
            "from it, which is refused. Where you trust its source, convert it once: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path} is damaged or no torch file ({error}): fetch it again") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but {type(content).__name__}")
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise WeightsError(f"{path} holds entries that are no tensors: {_shorten(odd)}")
    return dict(content)


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _strip_prefixes({key[len(prefix) :]: value for key, value in state.items()})
    return state


def _is_classifier_key(key: str, model: nn.Module) -> bool:
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return any(key.startswith(f"{name}.") for name in names)


def _check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected]
    wrong = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in state and state[k].shape != expected[k].shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "wrong shape": wrong}
    if not any(groups.values()):
        return
    lines = [f"  {title} ({len(keys)}): {_shorten(keys)}" for title, keys in groups.items() if keys]
    hint = _fitting_name(state)
    lines.append(f"  the keys fit the timm model {hint!r}" if hint else "  no well-known timm model fits these keys")
    raise WeightsError("\n".join([f"{path} does not fit the backbone:", *lines]))


def _fitting_name(state: Mapping[str, Tensor]) -> str | None:
    """A well-known timm name whose parameters all occur in the file with the same shapes."""
    for name in _HINT_NAMES:
        with torch.device("meta"):
            expected = timm.create_model(name, num_classes=0).state_dict()
        needed = {k: v.shape for k, v in expected.items() if not k.endswith("num_batches_tracked")}
        if all(k in state and state[k].shape == shape for k, shape in needed.items()):
            return name
    return None


def _shorten(keys: list[str], limit: int = 8) -> str:
    return ", ".join(keys[:limit]) + (f", and {len(keys) - limit} more" if len(keys) > limit else "")
