"""The whole flow gives the same whichever way its products are done: on a GPU, else in Triton's interpreter."""

import pytest
import torch
from flow_models import CONFIGS, features, make_model

pytest.importorskip("triton")

from moleflow_fast.backend import use_backend
from moleflow_fast.kernels import coupling, products
from moleflow_fast.kernels.operands import Shape
from moleflow_fast.kernels.ways import Implementation, use_table
from moleflow_fast.kernels.ways_table import NO_TABLE, Entry, Table, Timing, Way

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPERATIONS = ("relu_product", "relu_gradient_product", "coupling_product")
LIBRARY = Table(
    "any", None, "a test",
    tuple(Entry(name, "fp32", Shape(1, 1, 1, 1), (Timing(Way("library"), 0.0, False),)) for name in OPERATIONS),
)  # fmt: skip


def gradients(name: str, table: Table) -> dict[str, torch.Tensor]:
    model, x = make_model(CONFIGS[name]).float().to(DEVICE), features().float().to(DEVICE).requires_grad_(True)
    model.requires_grad_(True)
    with use_backend("triton"), use_table(table):
        z, logdet = model(x)
        (z.sin().sum() + logdet.square().sum()).backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {**named, "z": z.detach(), "logdet": logdet.detach(), "x": x.grad}


@pytest.mark.parametrize("name", ["default", "no_scale_context"])
def test_by_the_library_as_through_pointers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    for ways in (products._HIDDEN, products._HIDDEN_GRADIENT, coupling._WAYS):
        library = ways["library"]

        def run(op: object, tile: None, library: Implementation = library) -> object:
            ran.append(type(op).__name__)
            return library.run(op, tile)

        monkeypatch.setitem(ways, "library", library._replace(run=run))
    plain = gradients(name, NO_TABLE)
    assert not ran
    by_library = gradients(name, LIBRARY)
    assert set(ran) == {"Hidden", "HiddenGradient", "Coupling"}
    assert plain.keys() == by_library.keys()
    for key, value in plain.items():
        torch.testing.assert_close(by_library[key], value, rtol=0, atol=3e-5 * float(value.abs().max() + 1e-6), msg=key)
