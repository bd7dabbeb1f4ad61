"""From a flow's modules to what the kernels read: LoRA merged, first layers grouped, permutations as indices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from moleflow_fast.engine.base_block import BaseBlock
from moleflow_fast.engine.plan import Plan, TaskBlock
from moleflow_fast.engine.task_block import TaskCoupling
from moleflow_fast.models.coupling import AllInOneBlock
from moleflow_fast.models.dia import AffineCouplingBlock, SimpleSubnet
from moleflow_fast.models.expert import FlowModules
from moleflow_fast.models.lora_linear import LoRALinear
from moleflow_fast.models.subnets import MoLEContextSubnet, MoLESubnet, context_taps
from moleflow_fast.packing.seen import sum_of_log_scales
from moleflow_fast.packing.target import Target

if TYPE_CHECKING:
    from moleflow_fast.packing.channel_packer import ChannelPacker


@dataclass(frozen=True)
class Packed:
    """A flow with one task's LoRA merged in; `log_scales` is the constant sum over blocks of log(global scale)."""

    plan: Plan
    tensors: tuple[Tensor, ...]
    log_scales: Tensor


def obstacle(flow: FlowModules) -> str | None:
    """Why this flow cannot be packed, or None."""
    for block in flow.base.module_list:
        subnet = block.subnet
        if not isinstance(subnet, (MoLEContextSubnet, MoLESubnet)):
            return f"its subnet is a {type(subnet).__name__}"
        if _kernel(subnet) != _kernel(_blocks(flow)[0].subnet):
            return "its base blocks differ in their context"
        if any(layer._forward_pre_hooks for layer in subnet.modules()):
            return "its layers carry spectral normalisation or other hooks"
    return None


class Packer:
    """Merges and lays out the numbers of flows; for a GPU it keeps what steps do not change."""

    def __init__(self) -> None:
        self._channel_major: ChannelPacker | None = None

    @torch.no_grad()
    def pack(self, flow: FlowModules, target: Target) -> Packed:
        """The flow with a task's LoRA merged in, for a target."""
        plan = replace(_plan(flow), engine=target.engine, operands=target.operands)
        blocks, couplings = _blocks(flow), _couplings(flow)
        if target.engine == "cpu":
            tensors = [t for block in blocks for t in _pack_base_block(block, flow.task_id)]
            tensors += [t for coupling in couplings for t in _pack_coupling(coupling)]
            return Packed(plan, tuple(tensors), sum_of_log_scales(flow))
        layers = [group for block in blocks for group in _grouped(_layers(block.subnet, flow.task_id))]
        for s_net, t_net in map(_nets, couplings):
            layers += [list(pair) for pair in zip(_linears(s_net), _linears(t_net), strict=True)]
        packed, log_scales = self._packer().pack(plan, flow, layers)
        return Packed(plan, tuple(packed), log_scales)

    def _packer(self) -> ChannelPacker:
        if self._channel_major is None:
            from moleflow_fast.packing.channel_packer import ChannelPacker  # it needs Triton, which a CPU does not

            self._channel_major = ChannelPacker()
        return self._channel_major


def pack(flow: FlowModules, target: Target) -> Packed:
    """`Packer.pack` once."""
    return Packer().pack(flow, target)


def trained(flow: FlowModules, packed: Packed) -> tuple[Packed, list[Tensor]]:
    """The packed flow whose plan names every tensor that wants a gradient, and those tensors in its order."""
    named = dict(_trained(flow))
    return replace(packed, plan=replace(packed.plan, slots=tuple(named))), list(named.values())


def _plan(flow: FlowModules) -> Plan:
    blocks, couplings = _blocks(flow), _couplings(flow)
    scaling = {m.scaling for m in flow.base.modules() if isinstance(m, LoRALinear)}
    return Plan(
        channels=sum(blocks[0].split) if blocks else sum(couplings[0].split),
        kernels=tuple(_kernel(block.subnet) for block in blocks),
        task_blocks=tuple(
            TaskBlock(b.reverse, b.s_net.layers[0].out_features)  # type: ignore[arg-type]
            for b in couplings
        ),
        clamp=float(blocks[0].clamp_alpha if blocks else couplings[0].clamp_alpha),
        scaling=scaling.pop() if scaling else 0.0,
    )


def _blocks(flow: FlowModules) -> list[AllInOneBlock]:
    return list(flow.base.module_list)  # type: ignore[arg-type]


def _couplings(flow: FlowModules) -> list[AffineCouplingBlock]:
    return [] if flow.dia is None else list(flow.dia.coupling_blocks)  # type: ignore[arg-type]


def _kernel(subnet: nn.Module) -> int:
    return subnet.context_conv.kernel_size[0] if isinstance(subnet, MoLEContextSubnet) else 0


def _pack_base_block(block: AllInOneBlock, task_id: int | None) -> BaseBlock:
    subnet = block.subnet
    empty = block.global_scale.new_empty(0)
    layers = dict(_layers(subnet, task_id))
    values = {"taps": empty, "taps_bias": empty}
    for name in ("s1", "s2", "t1", "t2"):
        layer = layers.get(name)
        values[name], values[f"{name}_bias"] = (empty, empty) if layer is None else _merged(layer, task_id)
    if isinstance(subnet, MoLEContextSubnet):
        values["taps"], values["taps_bias"] = subnet.context_taps()
    return BaseBlock(
        source=block.perm_index.to(torch.int32), scale=block.scale(), offset=block.global_offset[0], **values
    )


def _pack_coupling(block: nn.Module) -> TaskCoupling:
    s, t = map(_linears, _nets(block))
    return TaskCoupling(
        torch.cat([s[0].weight, t[0].weight]),
        torch.cat([s[0].bias, t[0].bias]),
        s[1].weight, s[1].bias, t[1].weight, t[1].bias,
        s[2].weight, s[2].bias, t[2].weight, t[2].bias,
    )  # fmt: skip


def _layers(subnet: nn.Module, task_id: int | None) -> Iterator[tuple[str, nn.Module]]:
    """Layers of a subnet under the names of `BaseBlock`."""
    if isinstance(subnet, MoLEContextSubnet):
        yield from zip(
            ("s1", "s2", "t1", "t2"),
            (subnet.s_layer1, subnet.s_layer2, subnet.t_layer1, subnet.t_layer2),
            strict=True,
        )
        return
    assert isinstance(subnet, MoLESubnet)
    yield from zip(("s1", "s2"), subnet.layers_of(task_id), strict=True)


def _grouped(layers: Iterable[tuple[str, nn.Module]]) -> list[list[nn.Module]]:
    """First and last layers, the scale network's first."""
    named = dict(layers)
    return [[named[name] for name in names if name in named] for names in (("s1", "t1"), ("s2", "t2"))]


def _nets(coupling: nn.Module) -> tuple[nn.Module, nn.Module]:
    return coupling.s_net, coupling.t_net  # type: ignore[return-value]


def _linears(net: nn.Module) -> list[nn.Linear]:
    return [m for m in net.layers if isinstance(m, nn.Linear)]  # type: ignore[union-attr]


def _merged(layer: nn.Module, task_id: int | None) -> tuple[Tensor, Tensor]:
    if isinstance(layer, LoRALinear):
        weight, bias = layer.get_merged_weight(task_id), layer.merged_bias(task_id)
    else:
        weight, bias = layer.weight, layer.bias  # type: ignore[assignment]
    return weight.detach().contiguous(), bias.detach()


def _trained(flow: FlowModules) -> Iterator[tuple[str, Tensor]]:
    taps = _trained_taps(_blocks(flow))
    for index, block in enumerate(_blocks(flow)):
        name = f"flow.{index}"
        if block.global_scale.requires_grad or block.global_offset.requires_grad:
            yield f"{name}.scale", block.scale()
            yield f"{name}.offset", block.global_offset[0]
        if index in taps:
            yield f"{name}.taps", taps[index][0]
            yield f"{name}.taps_bias", taps[index][1]
        for layer_name, layer in _layers(block.subnet, flow.task_id):
            yield from _trained_in_layer(f"{name}.{layer_name}", layer, flow.task_id)
    for index, coupling in enumerate(_couplings(flow)):
        for net_name, net in (("s", coupling.s_net), ("t", coupling.t_net)):
            yield from _trained_in_net(f"dia.{index}.{net_name}", net)


def _trained_taps(blocks: Sequence[AllInOneBlock]) -> dict[int, tuple[Tensor, Tensor]]:
    """Taps and bias by block, of the blocks whose context convolutions train."""
    subnets = {i: b.subnet for i, b in enumerate(blocks) if isinstance(b.subnet, MoLEContextSubnet)}
    own = {i: s for i, s in subnets.items() if any(p.requires_grad for p in s.context_parameters())}
    if not own:
        return {}
    taps, biases = context_taps(list(own.values()))
    return dict(zip(own, zip(taps.unbind(), biases.unbind(), strict=True), strict=True))


def _trained_in_layer(name: str, layer: nn.Module, task_id: int | None) -> Iterator[tuple[str, Tensor]]:
    linear = layer.base_linear if isinstance(layer, LoRALinear) else layer
    yield from _trained_in_linear(name, linear)  # type: ignore[arg-type]
    key = str(task_id)
    if not isinstance(layer, LoRALinear):
        return
    if key in layer.lora_A and (layer.lora_A[key].requires_grad or layer.lora_B[key].requires_grad):
        yield f"{name}.lora_A", layer.lora_A[key]
        yield f"{name}.lora_B", layer.lora_B[key]
    if key in layer.task_biases and layer.task_biases[key].requires_grad:
        yield f"{name}.task_bias", layer.task_biases[key]


def _trained_in_net(name: str, net: SimpleSubnet) -> Iterator[tuple[str, Tensor]]:
    for number, linear in enumerate(_linears(net), start=1):
        yield from _trained_in_linear(f"{name}{number}", linear)


def _trained_in_linear(name: str, linear: nn.Linear) -> Iterator[tuple[str, Tensor]]:
    if linear.weight.requires_grad:
        yield f"{name}.weight", linear.weight
    if linear.bias is not None and linear.bias.requires_grad:
        yield f"{name}.bias", linear.bias
