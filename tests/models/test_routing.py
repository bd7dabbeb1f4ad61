"""The router as the inference executor sees it: what it reads is the same objects until something changes."""

import torch

from moleflow_fast.models.routing import PrototypeRouter, TaskPrototype


def test_a_device_named_otherwise_than_its_tensors_changes_nothing() -> None:
    """As "cuda", whose tensors are on "cuda:0"; tensors of "cpu:0" are on "cpu"."""
    router = PrototypeRouter("cpu:0")
    prototype = TaskPrototype(0, device="cpu:0")
    prototype.update(torch.randn(9, 3))
    router.add_prototype(prototype)
    assert router.device == router.route(torch.randn(2, 3)).device
    assert all(a is b for a, b in zip(router.reads(), router.reads(), strict=True))
