"""Losses: parity with the published implementation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from moleflow_fast.trainer.losses import logdet_penalty, nll_loss, patch_nll, tail_aware_loss

ARRAYS = np.load(Path(__file__).parents[1] / "golden" / "losses_scores.npz", allow_pickle=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", ["nll", "logdet_reg", *(n for n in ARRAYS.files if n.startswith("tail/"))])
def test_golden(name: str, dtype: torch.dtype) -> None:
    z = torch.from_numpy(ARRAYS["z"]).to(dtype)
    logdet = torch.from_numpy(ARRAYS["logdet"]).to(dtype)
    if name == "nll":
        actual = nll_loss(patch_nll(z, logdet))
    elif name == "logdet_reg":
        actual = logdet_penalty(logdet)
    else:
        weight, ratio = map(float, name.split("/")[1:])
        actual = tail_aware_loss(patch_nll(z, logdet), weight, ratio)
    assert math.isclose(actual.item(), ARRAYS[name].item(), rel_tol=1e-5)


def test_tail_of_a_single_patch_is_that_patch() -> None:
    nll = torch.randn(4, 1, 1)
    torch.testing.assert_close(tail_aware_loss(nll, 0.3, 0.05), nll.mean())
