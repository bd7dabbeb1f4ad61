"""Every tile shape that is timed computes what the definition does: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
from kernel_cases import CASES, Sizes  # noqa: E402
from tiles import CANDIDATES, Tile, forced, largest_error  # noqa: E402

from moleflow_fast.kernels import coupling, products  # noqa: E402


@pytest.mark.parametrize(
    ("name", "tile"), [(name, tile) for name, candidates in CANDIDATES.items() for tile in (None, *candidates)]
)
def test_same_results(name: str, tile: Tile | None) -> None:
    torch.manual_seed(0)
    with forced(tile):
        assert largest_error(CASES[name](Sizes(36, (2, 9, 9)))) < 1e-5


@pytest.mark.parametrize(
    ("name", "module", "kernel"),
    [
        ("relu_product", products, "_relu_product"),
        ("relu_gradient_product", products, "_relu_gradient_product"),
        ("coupling_product", coupling, "_coupling_product"),
    ],
)
def test_a_forced_shape_is_launched(
    name: str, module: ModuleType, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[dict[str, Any]] = []

    class Kernel:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *_, **options: launched.append(options)

    monkeypatch.setattr(module, kernel, Kernel())
    with forced(Tile(32, 64, 16, 4, 2)):
        CASES[name](Sizes(36, (2, 9, 9))).kernel()
    (options,) = launched
    assert [options[f"BLOCK_{axis}"] for axis in "MNK"] == [32, 64, 16]
    assert (options["num_warps"], options["num_stages"]) == (4, 2)
