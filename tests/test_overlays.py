import matplotlib
import numpy as np

from moleflow_fast.evaluation.overlays import outline, turbo


def test_turbo_is_matplotlibs() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        heat = np.concatenate([rng.random(4001), np.arange(257) / 256, [1 - 2**-24]]).astype(dtype)
        assert np.array_equal(turbo(heat), matplotlib.colormaps["turbo"](heat, bytes=True)[:, :3])


def test_an_outline_is_as_deep_as_asked() -> None:
    inside = np.zeros((20, 31), bool)
    inside[4:15, 6:29] = True
    core = np.zeros_like(inside)
    core[6:13, 8:27] = True
    assert np.array_equal(outline(inside, 2), inside & ~core)
    assert not outline(np.ones((9, 9), bool), 3).any()
