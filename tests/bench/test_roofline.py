"""No kernel is missing in the roofline, a step there launches what the engine launches, and its figures are right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("triton")
import roofline  # noqa: E402
from counts import Flow, Work  # noqa: E402
from device import DEVICE  # noqa: E402
from kernel_cases import CASES, Sizes  # noqa: E402
from operations import OPERATIONS, PROTOTYPES, Operation, Shape, trained_parameters  # noqa: E402

from moleflow_fast.backend import use_backend  # noqa: E402
from moleflow_fast.config import AblationConfig  # noqa: E402
from moleflow_fast.engine import channel_layout, channel_major  # noqa: E402
from moleflow_fast.kernels import latent, transpose  # noqa: E402
from moleflow_fast.kernels.adamp import DeviceAdamP  # noqa: E402
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF  # noqa: E402
from moleflow_fast.ops.mahalanobis import mahalanobis_distances, stack_gaussians  # noqa: E402
from moleflow_fast.packing.packer import pack, trained  # noqa: E402
from moleflow_fast.packing.target import Target  # noqa: E402
from moleflow_fast.trainer.optimizer import AdamP  # noqa: E402

COMPILED = json.loads((Path(__file__).parents[1] / "kernels" / "compiled.json").read_text())["kernels"]
SIZES, SHAPE = Sizes(20, (2, 3, 5)), Shape(2, 4, 4, 24)
ON_TRITON = [operation for operation in OPERATIONS if operation.on_gpu]
RATES = roofline.Rates(bf16=100e12, fp32=10e12, bytes=1e12)


def launched(run: Callable[[], object]) -> Counter[str]:
    """How often which kernel is launched; none of them runs."""
    found: Counter[str] = Counter()

    def note(kernel: Any, *args: Any, **options: Any) -> None:
        found[kernel.__name__.strip("_")] += 1

    with patch.object(type(transpose._enter), "run", note):
        run()
    return found


def calls() -> dict[str, Callable[[], object]]:
    """What is timed for each row, at small sizes."""
    every: dict[str, Callable[[], object]] = {name: make(SIZES).kernel for name, make in CASES.items()}
    every |= {operation.title: operation.caller(SHAPE, "triton") for operation in ON_TRITON}
    every |= {roofline.distances_title(images): lambda n=images: distances(n) for images in (1, 16)}
    count = {task_id: trained_parameters(roofline.FLOW, task_id) for task_id in (0, 1)}
    return every | {roofline.optimizer_title(task_id, n): optimizer_step for task_id, n in count.items()}


def distances(images: int) -> None:
    means, precision = torch.randn(PROTOTYPES, 8, device=DEVICE), torch.eye(8, device=DEVICE)
    gaussians = stack_gaussians(list(means), [precision] * PROTOTYPES)
    with use_backend("triton"):
        mahalanobis_distances(torch.randn(images, 8, device=DEVICE), gaussians)


def optimizer_step() -> None:
    parameter = torch.nn.Parameter(torch.randn(4, 3, device=DEVICE))
    parameter.grad = torch.randn_like(parameter)
    DeviceAdamP(AdamP([parameter]).with_state(), 0.5).step()


def later_step() -> None:
    """The flow of a step: weights packed, forward, likelihood, backward; tensors are empty."""
    flow = roofline.FLOW
    with torch.device("meta"):
        config = AblationConfig(dia_n_blocks=flow.dia_blocks)
        model = MoLESpatialAwareNF(flow.dim, flow.blocks, lora_rank=flow.rank, device="meta", ablation_config=config)
        for task_id in (0, 1):
            model.add_task(task_id)
    model.freeze_all_base()
    modules = model.expert(1).flow
    packed, params = trained(modules, pack(modules, Target("channel_major", "bf16")))
    x = torch.empty(2, 3, 5, flow.dim, device="meta")
    pending = channel_layout.unpack(packed.plan, packed.tensors)[0].pending
    state, tiles, saved = channel_major.blocks(packed.plan, packed.tensors, x, keep=True)
    nll, logdet = x[..., 0].flatten(), torch.empty_like(x[..., 0].flatten())
    latent.state_nll(state, pending, tiles, packed.log_scales, nll, logdet)
    latent.state_gradient(packed.log_scales, nll, state, pending, logdet, 1e-4, state, logdet)
    grid = channel_major.grid_of(x)
    channel_major.blocks_backward(packed.plan, packed.tensors, params, saved, state, logdet, grid)


def test_every_row_is_a_call() -> None:
    assert {row.name for row in roofline.rows()} <= set(calls())


def test_every_compiled_kernel_is_in_the_roofline() -> None:
    """But for the backbone's edges, which are part of the rows of inference alone, and what has no row yet."""
    edges = {"look_up", "look_up_blocks", "stem", "max_pool", "pool_any", "resize"}
    seen = {name for call in calls().values() for name in launched(call)}
    fronts_and_pooled_router = {"whitened", "along_directions", "whitened_features", "nearest_whitened"}
    assert {label.split()[0] for label in COMPILED} - edges - fronts_and_pooled_router == seen


def test_a_step_launches_what_the_engine_does() -> None:
    expected: Counter[str] = Counter()
    for repeats, names in roofline.STEP.values():
        for name in set(names) & set(CASES):
            one = launched(CASES[name](SIZES).kernel)
            expected.update({kernel: repeats * names.count(name) * times for kernel, times in one.items()})
    assert launched(later_step) == expected


def test_products_of_a_step_are_those_of_the_counts() -> None:
    macs = {row.name: row.work.macs for row in roofline.rows()}
    step = sum(repeats * sum(macs[name] for name in names) for repeats, names in roofline.STEP.values())
    counted = roofline.FLOW.training_step(12_544, base_trains=False).macs
    assert step == pytest.approx(counted, rel=2e-3)


@pytest.mark.parametrize("operation", ON_TRITON, ids=lambda operation: operation.title)
def test_operations_do_what_their_definitions_do(operation: Operation) -> None:
    results = []
    for backend, suffix in (("triton", ""), ("eager", "_reference")):
        torch.manual_seed(0)
        results.append(operation.caller(SHAPE, backend, suffix)())
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_trained_parameters_are_the_optimizers() -> None:
    """The later task's: A and B of each layer, the task flow, their biases and the adapter."""
    flow = Flow(16, blocks=1, dia_blocks=1, rank=2)
    biases = sum(outputs for _, outputs in flow.lora_layers) + 2 * (2 * flow.dia_hidden + flow.driven)
    assert trained_parameters(flow, 1) == flow.lora_macs() + flow.dia_macs() + biases + 2 * flow.dim


def test_floor_is_the_longer_time() -> None:
    work = Work(macs=1e9, bytes=1e6)
    product, exact = (roofline.Row("a", "a", work, fp32=fp32) for fp32 in (False, True))
    assert product.floor(RATES) == product.arithmetic(RATES) == pytest.approx(20e-6)
    assert exact.floor(RATES) == pytest.approx(200e-6)
    assert roofline.Row("a", "a", Work(1e6, 1e6), fp32=False).floor(RATES) == pytest.approx(1e-6)


def test_table_of_a_result_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    lines = printed(
        {"relu_product, bf16": 56.2e-6, "merge of a flow, bf16": 56e-6, roofline.WHOLE_STEP: 8e-3},
        tmp_path,
        monkeypatch,
        capsys,
    )
    start = "| relu_product | 22.20 | 59.6 | 28.1 us | 13.9 us | arithmetic "
    assert f"{start}| 28.1 us | 46.3 us | 56.2 us | 50% | 82% |" in lines
    assert "| enter |  | 77.1 |  | 17.9 us | traffic | 17.9 us | 18.4 us | not measured |  |  |" in lines
    assert "| merge | 1 | 28 us | 28 us | 56 us | 50% | 50% |" in lines
    (forward,) = (line for line in lines if line.startswith("| base block, forward | 8 | 478 us |"))
    assert forward.endswith("| not measured |  |  |")
    (step,) = (line for line in lines if line.startswith("| step | 1 |"))
    assert " | 8 ms | 27% | " in step


def test_rates_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    slow = ("--bf16-tflops", "395", "--terabytes", "2.15")
    lines = printed({}, tmp_path, monkeypatch, capsys, *slow)
    start = "| relu_product | 22.20 | 59.6 | 56.2 us | 27.7 us | arithmetic "
    assert f"{start}| 56.2 us | 46.3 us | not measured |  |  |" in lines


def test_products_by_cublas_are_those_of_the_rows() -> None:
    """The shapes that stand for a row have its multiply-adds; LoRA gradients are formed dense."""
    rows = {row.name: row for row in roofline.rows()}
    for name, products in roofline.CUBLAS.items():
        if not name.startswith(("input gradient", "LoRA", "weight and LoRA")):
            sizes = [[int(n) for n in product.split()[-1].split("x")] for product in products]
            assert rows[name].work.macs == 12_544 * sum(outputs * inputs for outputs, inputs in sizes), name


def test_what_can_be_reached_is_what_was_measured() -> None:
    rows = {row.name: row for row in roofline.rows()}
    assert rows["relu_product"].reachable(RATES) == pytest.approx(46.3e-6, abs=1e-7)  # 27.6 and 18.7
    assert rows["enter"].reachable(RATES) == rows["enter"].work.bytes / roofline.COPY
    products = sum(
        repeats * sum(rows[name].reachable(RATES) for name in names if name in roofline.CUBLAS)
        for repeats, names in roofline.STEP.values()
    )
    assert products == pytest.approx(2.95e-3, rel=0.03)


def test_a_result_of_small_sizes_is_refused() -> None:
    with pytest.raises(SystemExit, match="other sizes"):
        roofline.measured({"small": True, "benchmarks": []})


def printed(
    times: dict[str, float], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *options: str
) -> list[str]:
    """Lines of the command for a result file in which the definition takes a second."""
    rows = [
        {"group": group, "backend": backend, "median_s": time}
        for group, ours in times.items()
        for backend, time in (
            (roofline.IN_BF16 if group == roofline.WHOLE_STEP else "triton", ours),
            ("reference", 1.0),
        )
    ]
    (folder / "result.json").write_text(json.dumps({"machine": {}, "benchmarks": rows}))
    monkeypatch.setattr("sys.argv", ["roofline.py", str(folder / "result.json"), *options])
    roofline.main()
    return capsys.readouterr().out.splitlines()
