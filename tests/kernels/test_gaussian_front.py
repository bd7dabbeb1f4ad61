"""Gaussian fronts in Triton: of one task, and of several on batches that mix them."""

from collections.abc import Sequence

import pytest
import torch
from kernel_checks import BOUND, DEVICE, on_triton, random
from launches import Launches

from moleflow_fast.backend import use_backend
from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.ops.gaussian_front import (
    FrontsByTask,
    FrontTensors,
    gaussian_front,
    gaussian_front_by_task_reference,
    gaussian_front_reference,
)
from moleflow_fast.packing.conditioning import Conditions


def front(height: int, width: int, directions: int, channels: int, seed: int = 0) -> FrontTensors:
    whitener = random(channels, channels, seed=seed).tril() + 2 * torch.eye(channels, device=DEVICE)
    bases = torch.linalg.qr(random(height, width, channels, channels, seed=seed + 1).cpu())[0].to(DEVICE)
    gain = random(height, width, directions, seed=seed + 2).abs() + 0.1
    scale = random(height, width, seed=seed + 3).abs() + 0.1
    mean = 3 + random(height, width, channels, seed=seed + 4)
    return FrontTensors(mean, whitener, bases[:, :, :directions].contiguous(), gain, scale)


def assert_equal_to_definition(
    fronts: Sequence[FrontTensors], tasks: Sequence[int], positions: torch.Tensor | None = None
) -> torch.Tensor:
    x = random(len(tasks), *fronts[0].mean.shape, seed=9)
    chosen = torch.tensor(tasks, dtype=torch.int32, device=DEVICE)
    actual = on_triton(FrontsByTask(fronts), x, chosen, positions)
    wide = [FrontTensors(*(t.double() for t in one)) for one in fronts]
    exact_positions = None if positions is None else positions.double()
    exact = gaussian_front_by_task_reference(x.double(), wide, chosen, exact_positions)
    plain = gaussian_front_by_task_reference(x, fronts, chosen, positions)
    bound = max(BOUND * float(exact.abs().max()), 4 * float((plain - exact).abs().max()))
    assert actual.dtype == torch.float32 and actual.shape == exact.shape
    assert (actual - exact).abs().max() <= bound
    return actual


# Height, width, directions, channels: tiles of 64 positions and channels, 32 inner channels and directions.
SIZES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 5, 16, 16), (3, 23, 3, 37), (2, 2, 33, 70), (1, 3, 65, 130)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_positions", [False, True])
def test_equal_to_the_definition(size, with_positions, poisoned):
    fronts = [front(*size, seed=10 * task) for task in range(3)]
    positions = random(size[0], size[1], size[3], seed=5) if with_positions else None
    assert_equal_to_definition(fronts, [2, 0, 2], positions)


@pytest.mark.parametrize(
    "tasks",
    [[0], [4] * 3, [4, 0, 4, 0, 1], [3, 0] * 17, [0] * 16 + [4] * 16 + [2], [1, 3] * 8 + [2], list(range(5)) * 7],
    ids=lambda tasks: f"{len(tasks)} of {len(set(tasks))}",
)
def test_images_of_any_tasks(tasks, poisoned):
    """Blocks of 16 images of one task and of several, with tasks between that no image has."""
    assert_equal_to_definition([front(2, 2, 3, 20, seed=10 * task) for task in range(5)], tasks)


def test_no_directions(poisoned):
    assert_equal_to_definition([front(2, 5, 0, 20), front(2, 5, 0, 20, seed=10)], [1, 0, 1])


def test_addresses_that_16_bytes_do_not_divide(poisoned):
    one = front(2, 3, 5, 20)
    moved = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in one]
    assert_equal_to_definition([FrontTensors(*moved), front(2, 3, 5, 20, seed=10)], [1, 0, 0])


def test_views_are_read_right():
    fronts = [FrontTensors(*(t.mT.contiguous().mT if t.dim() > 2 else t for t in front(2, 3, 5, 20)))]
    x = random(20, 2, 3, 4).permute(3, 1, 2, 0)
    actual = on_triton(gaussian_front, x, fronts[0])
    torch.testing.assert_close(actual, gaussian_front_reference(x, fronts[0]), rtol=1e-5, atol=1e-4)


def test_an_image_is_the_same_in_any_batch(poisoned):
    """Alone, among others, in another place, through a front that is laid out alone."""
    fronts, x = [front(3, 5, 6, 37, seed=10 * task) for task in range(3)], random(40, 3, 5, 37)
    tasks = torch.arange(40, dtype=torch.int32, device=DEVICE) % 3
    by_task = FrontsByTask(fronts)
    whole = on_triton(by_task, x, tasks, None)
    assert torch.equal(whole, on_triton(by_task, x, tasks, None))
    turned = on_triton(by_task, x.flip(0), tasks.flip(0), None)
    assert torch.equal(whole, turned.flip(0))
    for image in (0, 17, 39):
        alone = on_triton(by_task, x[image : image + 1], tasks[image : image + 1], None)
        assert torch.equal(whole[image], alone[0])
        assert torch.equal(whole[image], on_triton(gaussian_front, x[image : image + 1], fronts[image % 3])[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_patch_breaks_itself_alone(value):
    fronts, x = [front(2, 3, 4, 20, seed=10 * task) for task in range(2)], random(5, 2, 3, 20)
    x[3, 1, 2, 0] = value
    w = on_triton(FrontsByTask(fronts), x, torch.tensor([1, 0, 1, 0, 0], dtype=torch.int32, device=DEVICE), None)
    broken = ~w.isfinite().all(-1)
    assert broken[3, 1, 2] and broken.sum() == 1


def test_positions_are_folded_in_once_and_kept():
    by_task, x = FrontsByTask([front(2, 3, 4, 20)]), random(2, 2, 3, 20)
    chosen, positions = torch.zeros(2, dtype=torch.int32, device=DEVICE), random(2, 3, 20, seed=4)
    first = on_triton(by_task, x, chosen, positions)
    kept = by_task._bias(positions)
    assert not torch.equal(first, on_triton(by_task, x, chosen, None))
    assert by_task._bias(positions) is kept
    assert torch.equal(first, on_triton(by_task, x, chosen, positions))


@pytest.mark.parametrize(("tasks", "directions", "expected"), [(1, 4, "arange"), (3, 4, "sort"), (3, 0, "sort")])
def test_launches(tasks, directions, expected):
    fronts = [front(2, 3, directions, 20, seed=10 * task) for task in range(tasks)]
    by_task, x = FrontsByTask(fronts), random(3, 2, 3, 20)
    chosen, positions = torch.arange(3, dtype=torch.int32, device=DEVICE) % tasks, random(2, 3, 20, seed=4)
    on_triton(by_task, x, chosen, positions)
    with Launches() as launches:
        on_triton(by_task, x, chosen, positions)
    kernels = {"_whitened": 1, **({"_along_directions": 1} if directions else {})}
    assert launches.counts == {f"torch.{expected}": 1, **kernels}


def test_gradients_and_fp64_take_the_plain_path():
    one, x = front(2, 3, 4, 20), random(2, 2, 3, 20).requires_grad_(True)
    on_triton(gaussian_front, x, one).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    wide = FrontTensors(*(t.double() for t in one))
    assert on_triton(gaussian_front, x.detach().double(), wide).dtype == torch.float64


def test_no_images():
    by_task = FrontsByTask([front(2, 3, 4, 20)])
    chosen = torch.empty(0, dtype=torch.int32, device=DEVICE)
    assert on_triton(by_task, random(0, 2, 3, 20), chosen, None).shape == (0, 2, 3, 20)


def test_another_grid_is_refused():
    fitted = GaussianFront(20, 4).to(DEVICE)
    fitted.allocate(2, 3)
    conditions = Conditions([fitted], None)
    with pytest.raises(ValueError, match="fitted on 2 x 3 patches and is given 3 x 2"):
        on_triton(conditions.apply, random(1, 3, 2, 20), torch.zeros(1, dtype=torch.int32, device=DEVICE), None)


def test_the_inverse_of_what_the_kernels_give():
    fitted = GaussianFront(12, 4).to(DEVICE)
    fitted.fit(lambda: [random(40, 2, 3, 12), 2 * random(30, 2, 3, 12, seed=1)])
    x = random(5, 2, 3, 12, seed=2)
    with use_backend("triton"), torch.no_grad():
        torch.testing.assert_close(fitted.inverse(fitted(x)), x, rtol=1e-4, atol=1e-4)
