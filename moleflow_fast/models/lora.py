"""The published import path of the LoRA layers, the coupling subnets and the task flows."""

from moleflow_fast.models.dia import AffineCouplingBlock, DeepInvertibleAdapter, SimpleSubnet
from moleflow_fast.models.lora_linear import LoRALinear
from moleflow_fast.models.subnets import MoLEContextSubnet, MoLESubnet

__all__ = [
    "AffineCouplingBlock",
    "DeepInvertibleAdapter",
    "LoRALinear",
    "MoLEContextSubnet",
    "MoLESubnet",
    "SimpleSubnet",
]
