"""The CUDA kernels on a few small shapes, held to the definition on the CPU; runs under compute-sanitizer."""

import torch

from moleflow_fast._compiled import compiled
from moleflow_fast.ops.gaussian_smooth import gaussian_smooth, gaussian_smooth_reference

SHAPES = [(1, 1, 1), (3, 1, 40), (1, 33, 9), (2, 40, 24)]


def main() -> None:
    assert compiled.build_info()["cuda"], "built without CUDA"
    for shape in SHAPES:
        for sigma in (0.3, 4.0, 70.0):  # 70: a radius of 280 fills shared memory beyond one weight a thread
            maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            smooth = gaussian_smooth(maps.cuda(), sigma).cpu()
            torch.testing.assert_close(smooth, gaussian_smooth_reference(maps, sigma), rtol=0, atol=2e-5)
    print(f"smoothed {len(SHAPES)} shapes")


if __name__ == "__main__":
    main()
