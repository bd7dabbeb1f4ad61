"""A frozen CNN as a graph of few operators for a GPU: each convolution takes its bias, residual and ReLU along.

Of a WideResNet-50-2 up to layer3 43 convolutions and a pooling are left of 140 kernels.
"""

from __future__ import annotations

import logging
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from moleflow_fast.data.normalization import table
from moleflow_fast.ops import convolution, max_pool  # noqa: F401 - registers the operators
from moleflow_fast.ops.snapshot import Snapshot
from moleflow_fast.ops.stem import blocked, blocks_of

from .capture import LayerCapture

logger = logging.getLogger(__name__)

# Of each output's largest magnitude. Kernels of one dtype differ by rounding, which a network of random weights
# amplifies; a branch or a bias left out differs by the magnitude itself.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.25}
_ALIGNED = 16  # bytes of a pixel that cuDNN reads at once: it pads three channels to that by itself, at each call
_CONVOLUTION = torch.ops.moleflow.convolution.default
_MAX_POOL = torch.ops.moleflow.max_pool.default
_STEM = torch.ops.moleflow.stem.default
_ADDS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, torch.relu)


class FusedGraph(nn.Module):
    """Images on the model's device -> outputs of the capture's layers; whatever is not finite stays so.

    Weights are the model's own, but for biases that were added up and channels that were filled up.

    Args:
        channels: of a pixel as the graph reads it, those beyond the image's own zero; None where it reads `blocks_of`
            images.
    """

    def __init__(self, graph: fx.GraphModule, channels: int | None) -> None:
        super().__init__()
        self.graph = graph
        self.channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Of images (B, C, S, S), normalised, in the model's dtype."""
        # The library's ReLU may turn NaN into 0: an image that is not finite must not come out as if it were.
        largest = torch.linalg.vector_norm(images, torch.inf, (1, 2, 3), keepdim=True)
        broken = largest * 0  # (B, 1, 1, 1): 0, or NaN
        return [output + broken for output in self.graph(self._filled(images))]

    def of_bytes(self, pixels: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Of pixels (B, 3, S, S) uint8, normalised here; `dtype` is the model's."""
        # Imported when first needed: a CPU may lack Triton.
        from moleflow_fast.kernels.normalize import look_up
        from moleflow_fast.kernels.stem import look_up_blocks

        (batch, _, height, width), values = pixels.shape, table(pixels.device, dtype)
        if self.channels is None:
            rows, columns = ((n + 1) // 2 + 3 for n in (height, width))
            blocks = pixels.new_empty(batch, rows, columns, 16, dtype=dtype)
            return list(self.graph(look_up_blocks(pixels, values, blocks)))
        filled = pixels.new_empty(batch, height, width, self.channels, dtype=dtype).permute(0, 3, 1, 2)
        return list(self.graph(look_up(pixels, values, filled)))

    def _filled(self, images: Tensor) -> Tensor:
        if self.channels is None:
            return blocks_of(images)
        missing = self.channels - images.shape[1]
        return F.pad(images, (0, 0, 0, 0, 0, missing)).contiguous(memory_format=torch.channels_last)


class FusedLayers:
    """The graph of a capture's model, made at first use and anew once its weights are others or were written to.

    Args:
        name: the model's.
        probe: an image (1, C, S, S), on which the graph is compared with the model.
    """

    def __init__(self, capture: LayerCapture, name: str, probe: Tensor) -> None:
        self._capture = capture
        self._name = name
        self._probe = probe
        self._said: set[str] = set()
        self._built: tuple[Snapshot, FusedGraph | None] = (Snapshot(), None)

    def current(self) -> FusedGraph | None:
        """None where the model runs as it is; said once, with the reason."""
        weights = list(self._capture.model.parameters())
        if not self._built[0].still(weights):
            self._built = (Snapshot(weights), self._build(weights[0]))
        return self._built[1]

    @torch.no_grad()
    def _build(self, weight: Tensor) -> FusedGraph | None:
        probe = self._probe.to(weight).contiguous(memory_format=torch.channels_last)
        try:
            fused = fuse(self._capture, probe)
            outputs = fused(probe)
        except Exception as error:  # any model may do what cannot be traced, any library lack an operator
            reason = str(error).strip().partition("\n")[0]
            self._say(f"{type(error).__name__}: {reason}")
            return None
        pairs = zip(outputs, self._capture(probe), strict=True)
        if not all(_near(actual, expected) for actual, expected in pairs):
            self._say("its features would be others")
            return None
        return fused

    def _say(self, reason: str) -> None:
        if reason not in self._said:  # once, whatever dtypes the weights go through
            logger.warning("%s runs unfused, which is slower on a GPU: %s", self._name, reason)
        self._said.add(reason)


def fuse(capture: LayerCapture, probe: Tensor) -> FusedGraph:
    """The capture's model as a graph of fused operators; the model itself stays as it is.

    Args:
        probe: an image (1, C, S, S) on the model's device and in its dtype: sums are fused where shapes are equal.

    Raises:
        Exception: whatever stops torch.fx from tracing the model.
    """
    tracer = _Tracer(capture)
    module = fx.GraphModule(capture.model, tracer.trace(capture.model))
    graph = module.graph
    (end,) = (node for node in graph.nodes if node.op == "output")
    end.args = (tuple(tracer.outputs[name] for name in capture.names),)
    graph.eliminate_dead_code()
    _drop_identities(module, capture)
    ShapeProp(module).propagate(probe)
    for node in list(graph.nodes):
        if _is_relu(module, node):
            _fuse_relu(module, node)
    for node in list(graph.nodes):
        _replace_alone(module, node)
    graph.eliminate_dead_code()
    channels = None if probe.element_size() == 2 and _replace_stem(module) else _fill_channels(module, probe)
    graph.lint()
    module.recompile()
    return FusedGraph(module, channels)


class _Tracer(fx.Tracer):
    """Notes what the capture's layers give."""

    def __init__(self, capture: LayerCapture) -> None:
        super().__init__()
        self.traced_func_name = capture.entry
        self.outputs: dict[str, fx.Node] = {}
        self._names = capture.names

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        if name in self._names:
            self.outputs[name] = output.node
        return output


def _drop_identities(module: fx.GraphModule, capture: LayerCapture) -> None:
    for node in list(module.graph.nodes):
        if type(_called(module, node)) is nn.Identity and node.target not in capture.names:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _fuse_relu(module: fx.GraphModule, relu: fx.Node) -> None:
    """relu(conv) and relu(conv + residual) as one operator, where nothing else reads what is between."""
    inner = relu.args[0]
    assert isinstance(inner, fx.Node)
    if _is_alone(inner) and _fits(module, inner):
        _replace(module, relu, inner, None)
    elif _is_alone(inner) and inner.op == "call_function" and inner.target in _ADDS and _same_shapes(inner):
        for conv, residual in (inner.args, inner.args[::-1]):
            assert isinstance(conv, fx.Node) and isinstance(residual, fx.Node)  # they have shapes
            if _is_alone(conv) and _fits(module, conv):
                _replace(module, relu, conv, residual)
                return


def _replace_alone(module: fx.GraphModule, node: fx.Node) -> None:
    called = _called(module, node)
    if _fits(module, node):
        _replace(module, node, node, None, relu=False)
    elif type(called) is nn.MaxPool2d and _is_plain_pooling(called):
        with module.graph.inserting_before(node):
            numbers = [_pair(n)[0] for n in (called.kernel_size, called.stride, called.padding)]
            pooled = module.graph.call_function(_MAX_POOL, (node.args[0], *numbers))
        node.replace_all_uses_with(pooled)


def _replace(module: fx.GraphModule, node: fx.Node, conv: fx.Node, residual: fx.Node | None, relu: bool = True) -> None:
    """Put convolution, `residual` and ReLU in the place of `node`."""
    own = _called(module, conv)
    assert isinstance(own, nn.Conv2d)
    bias = own.bias
    if residual is not None and _is_alone(residual) and _fits(module, residual):
        other = _called(module, residual)
        assert isinstance(other, nn.Conv2d)
        bias = _sum(bias, other.bias)  # a convolution without a ReLU would need a kernel of its own for it
        with module.graph.inserting_before(residual):
            bare = _convolution(module, residual, None, None, relu=False)
        bare.meta = residual.meta
        residual.replace_all_uses_with(bare)
        residual = bare
    if relu and bias is None:
        bias = own.weight.new_zeros(own.out_channels)
    with module.graph.inserting_before(node):
        fused = _convolution(module, conv, bias, residual, relu)
    fused.meta = node.meta
    node.replace_all_uses_with(fused)


def _convolution(
    module: fx.GraphModule, conv: fx.Node, bias: Tensor | None, residual: fx.Node | None, relu: bool
) -> fx.Node:
    own = _called(module, conv)
    assert isinstance(own, nn.Conv2d)
    weight = module.graph.get_attr(f"{conv.target}.weight")
    place = None if bias is None else _kept(module, bias)
    window = [list(_pair(n)) for n in (own.stride, own.padding, own.dilation)]
    return module.graph.call_function(_CONVOLUTION, (conv.args[0], weight, place, residual, *window, own.groups, relu))


def _replace_stem(module: fx.GraphModule) -> bool:
    """Whether the images go into a first convolution that blocks of pixels do, which then takes them."""
    (images,) = (node for node in module.graph.nodes if node.op == "placeholder" and node.users)
    first, *others = images.users
    if others or first.target is not _CONVOLUTION:
        return False
    _, weight, bias, residual, *window, relu = first.args
    taps = module.get_parameter(str(weight.target))
    fits = taps.shape[1] <= 4 and taps.shape[2:] == (7, 7) and window == [[2, 2], [3, 3], [1, 1], 1]
    if not fits or residual is not None or not relu:
        return False
    with module.graph.inserting_before(first):
        stem = module.graph.call_function(_STEM, (images, _kept(module, blocked(taps)), bias))
    first.replace_all_uses_with(stem)
    module.graph.erase_node(first)
    return True


def _fill_channels(module: fx.GraphModule, probe: Tensor) -> int:
    """Fill up the channels of the first convolution's weights; returns how many images then must have."""
    (images,) = (node for node in module.graph.nodes if node.op == "placeholder" and node.users)
    wanted = -(-probe.shape[1] * probe.element_size() // _ALIGNED) * _ALIGNED // probe.element_size()
    if any(user.target is not _CONVOLUTION or user.args[7] != 1 for user in images.users):
        return probe.shape[1]
    for user in list(images.users):
        weight = module.get_parameter(str(user.args[1].target))
        filled = F.pad(weight, (0, 0, 0, 0, 0, wanted - probe.shape[1])).contiguous(memory_format=torch.channels_last)
        with module.graph.inserting_before(user):
            user.update_arg(1, _kept(module, filled))
    return wanted


def _kept(module: fx.GraphModule, tensor: Tensor) -> fx.Node:
    name = f"fused_{sum(1 for _ in module.buffers(recurse=False))}"
    module.register_buffer(name, tensor.detach())
    return module.graph.get_attr(name)


def _sum(bias: Tensor | None, other: Tensor | None) -> Tensor | None:
    if bias is None or other is None:
        return other if bias is None else bias
    return (bias.double() + other.double()).to(bias.dtype)


def _called(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _fits(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a plain convolution."""
    own = _called(module, node)
    return type(own) is nn.Conv2d and own.padding_mode == "zeros" and not isinstance(own.padding, str)


def _is_relu(module: fx.GraphModule, node: fx.Node) -> bool:
    called = node.op == "call_function" and node.target in _RELUS
    method = node.op == "call_method" and node.target in ("relu", "relu_")
    return type(_called(module, node)) is nn.ReLU or called or method


def _is_plain_pooling(pool: nn.MaxPool2d) -> bool:
    square = all(len(set(_pair(n))) == 1 for n in (pool.kernel_size, pool.stride, pool.padding))
    return square and set(_pair(pool.dilation)) == {1} and not pool.ceil_mode and not pool.return_indices


def _is_alone(node: Any) -> bool:
    return isinstance(node, fx.Node) and len(node.users) == 1


def _same_shapes(add: fx.Node) -> bool:
    return len(add.args) == 2 and not add.kwargs and len({*map(_shape, add.args)}) == 1


def _shape(operand: Any) -> Any:
    return operand.meta["tensor_meta"].shape if isinstance(operand, fx.Node) else None


def _pair(number: Any) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else tuple(number)


def _near(actual: Tensor, expected: Tensor) -> bool:
    difference = (actual.double() - expected.double()).abs().max()
    return actual.shape == expected.shape and bool(difference <= _TOLERANCE[expected.dtype] * expected.abs().max())
