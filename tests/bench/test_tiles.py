"""Every tile shape that is timed computes what the definition does: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from kernel_cases import CASES, Sizes  # noqa: E402
from tiles import CANDIDATES, Tile, forced, largest_error  # noqa: E402

from moleflow_fast.kernels import products  # noqa: E402


@pytest.mark.parametrize(
    ("name", "tile"), [(name, tile) for name, candidates in CANDIDATES.items() for tile in (None, *candidates)]
)
def test_same_results(name: str, tile: Tile | None) -> None:
    torch.manual_seed(0)
    with forced(tile):
        assert largest_error(CASES[name](Sizes(36, (2, 9, 9)))) < 1e-5


def test_a_forced_shape_is_taken() -> None:
    tile = Tile(32, 64, 16, 4, 2)
    with forced(tile):
        config = products.tiles(768, 12_544, 768, torch.float32)
    assert (config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]) == tile[:3]
    assert products.tiles(768, 12_544, 768, torch.float32) != config
