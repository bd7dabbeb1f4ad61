"""Tensors as they were: another one, a write or a move shows."""

import torch

from moleflow_fast.ops.snapshot import Snapshot


def test_unwritten_tensors_are_still_the_same() -> None:
    tensors = [torch.randn(3), torch.nn.Parameter(torch.randn(2))]
    seen = Snapshot(tensors)
    assert seen.still(tensors) and seen.still(iter(tensors))
    assert Snapshot().still([])


def test_another_tensor_shows() -> None:
    tensors = [torch.randn(3), torch.randn(2)]
    seen = Snapshot(tensors)
    assert not seen.still([tensors[0], tensors[1].clone()])
    assert not seen.still(tensors[:1]) and not seen.still(tensors[::-1]) and not seen.still([])


def test_a_write_and_a_move_show() -> None:
    for change in (lambda p: p.add_(1), lambda p: setattr(p, "data", p.data.double())):
        parameter = torch.nn.Parameter(torch.randn(4), requires_grad=False)
        seen = Snapshot([parameter])
        change(parameter)
        assert not seen.still([parameter])
