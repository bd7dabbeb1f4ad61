"""Work beside the current stream: in its turn on a CPU; on a GPU the same bits as in its turn."""

import pytest
import torch
from flow_models import features, make_model

from moleflow_fast.backend import use_backend
from moleflow_fast.engine.streams import Beside
from moleflow_fast.kernels.ways import use_table
from moleflow_fast.kernels.ways_table import Way, table_of_one

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_without_a_stream_work_is_done_in_its_turn() -> None:
    done: list[int] = []
    beside = Beside(torch.device("cpu"), apart=True)
    beside.run(lambda: done.append(1))
    assert done == [1]
    beside.join()


def gradients(way: str) -> list[torch.Tensor]:
    model, x = make_model(blocks=2).float().to(DEVICE), features().float().to(DEVICE)
    with use_backend("triton"), use_table(table_of_one("weight_gradients", Way(way))):
        loss = model.density_loss(x, tail_weight=0.7, tail_top_k_ratio=0.1, lambda_logdet=1e-3)
        return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))


def test_the_same_bits_either_way() -> None:
    for beside, in_turn in zip(gradients("beside"), gradients("in turn"), strict=True):
        assert (beside is None) == (in_turn is None)
        if beside is not None:
            assert torch.equal(beside, in_turn)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
def test_a_graph_forks_and_joins() -> None:
    from moleflow_fast.engine.graphs import capture

    x, out = torch.randn(512, 512, device=DEVICE), torch.zeros(2, 512, 512, device=DEVICE)

    def run() -> None:
        beside = Beside(x.device, apart=True)
        beside.run(lambda: torch.mm(x, x, out=out[0]))
        torch.mm(x.t(), x, out=out[1])
        beside.join()
        out.mul_(2)

    graph = capture(run)
    assert graph is not None
    out.zero_()
    graph.replay()
    torch.testing.assert_close(out, 2 * torch.stack([x @ x, x.t() @ x]))
