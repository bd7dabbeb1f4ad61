"""What a packed flow looks like: everything but its numbers, as one string that operators can carry."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch

from moleflow_fast.backend import product_operands

EngineName = Literal["cpu", "channel_major"]
CHUNK_VALUES = 784 * 768
"""Feature values that go through the whole flow together, in whole images: one image of 28 x 28 patches of 768
channels is 2.4 MB in fp32, so what one product writes is still in cache when the next reads it."""

TRAINING_CHUNK = 4
"""Times as many with a backward pass, whose thin products want rows: a step of 16 such images takes 6.6 s one by one,
6.1 s four at a time, 6.2 s eight at a time; inference is fastest one by one (two cores of an EPYC)."""


@dataclass(frozen=True)
class TaskBlock:
    """A coupling of the task flow: which half drives (`reverse`: the second), and the hidden width."""

    reverse: bool
    hidden: int


@dataclass(frozen=True)
class Plan:
    """Structure of a flow with an active task.

    Attributes:
        channels: D.
        kernels: one entry a base block: size of its context convolution, 0 for a subnet without context.
        task_blocks: the couplings of the task flow.
        clamp: bound of the log-scales.
        scaling: alpha / r of the LoRA layers.
        engine: "cpu" for token-major chunks on a CPU, "channel_major" for Triton kernels.
        operands: of Triton kernels the dtype of what products read, "fp32" (also where they round it to tf32) or
            "bf16".
        slots: names of the tensors that want gradients, as "<flow>.<index>.<layer>.<what>".
    """

    channels: int
    kernels: tuple[int, ...]
    task_blocks: tuple[TaskBlock, ...]
    clamp: float
    scaling: float
    engine: EngineName = "cpu"
    operands: str = "fp32"
    slots: tuple[str, ...] = ()

    @property
    def split(self) -> int:
        """Channels of the driving half in a base block."""
        return self.channels - self.channels // 2

    @property
    def operand_dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.operands]

    @property
    def context(self) -> bool:
        """Whether base blocks have a context, and with it a network for the scale and one for the shift."""
        return any(self.kernels)

    @property
    def hidden(self) -> int:
        """Hidden units of a base block, of all its networks."""
        return 2 * self.split * (2 if self.context else 1)

    @property
    def bias_values(self) -> int:
        """Biases of all layers."""
        base = self.hidden + 2 * (self.channels - self.split)
        own = [4 * block.hidden + 2 * self._driven(block) for block in self.task_blocks]
        return len(self.kernels) * base + sum(own)

    @property
    def base_weight_values(self) -> int:
        """Weights of all base blocks, of which the first layers of both networks count as wide as the wider one."""
        first = self.hidden * self.split * (2 if self.context else 1)
        last = 2 * (self.channels - self.split) * 2 * self.split
        return len(self.kernels) * (first + last)

    def _driven(self, block: TaskBlock) -> int:
        driven = self.halves(block)[1]
        return driven.stop - driven.start

    def gap(self, block: int) -> int:
        """Columns between the halves in the input of a base block: room for the context channels."""
        return self.split if block < len(self.kernels) and self.kernels[block] else 0

    def halves(self, block: TaskBlock) -> tuple[slice, slice]:
        """Columns of the driving and of the driven half in a coupling of the task flow."""
        first, second = slice(0, self.channels // 2), slice(self.channels // 2, self.channels)
        return (second, first) if block.reverse else (first, second)

    @cached_property
    def text(self) -> str:
        """All of it, for `parse`."""
        return json.dumps(asdict(self))

    def chunks(self, images: int, tokens: int, training: bool) -> list[tuple[int, int]]:
        """Ranges of images that are worked on together, for images of `tokens` tokens each."""
        step = images_at_once(tokens * self.channels, training)
        return [(start, min(start + step, images)) for start in range(0, images, step)]


def images_at_once(values: int, training: bool) -> int:
    """How many images of so many feature values each make a chunk."""
    return max(1, CHUNK_VALUES * (TRAINING_CHUNK if training else 1) // max(values, 1))


def parts_of_a_step() -> int:
    """How many parts a batch on a GPU goes through in: what is kept of fp32 operands is twice what is kept of bf16."""
    return 2 if product_operands() == "fp32" else 1


@lru_cache(maxsize=256)
def parse(text: str) -> Plan:
    """The plan whose `text` this is."""
    fields = json.loads(text)
    fields["task_blocks"] = tuple(TaskBlock(**block) for block in fields["task_blocks"])
    fields["kernels"], fields["slots"] = tuple(fields["kernels"]), tuple(fields["slots"])
    return Plan(**fields)
