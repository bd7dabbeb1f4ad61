"""What programs that show curves get of a run."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run.small_runs import CLASSES, command_line, rows, write_data

from moleflow_fast.cli.train import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


class FakeWandb(SimpleNamespace):
    """The calls of W&B that are made, kept."""

    def __init__(self) -> None:
        super().__init__(api=SimpleNamespace(api_key=None), inits=[], points=[], axes=[], finished=0)

    def init(self, **how: Any) -> "FakeWandb":
        self.inits.append(how)
        return self

    def define_metric(self, name: str, step_metric: str | None = None, hidden: bool = False) -> None:
        self.axes.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.points.append(values)

    def finish(self) -> None:
        self.finished += 1


def small(data: Path, logs: Path, *more: str) -> list[str]:
    argv = command_line(data, logs, task_classes=CLASSES[:2], experiment_name="run", num_epochs=1, heatmaps=0)
    return [*argv, *more]


def test_wandb_gets_the_curves_and_a_resumed_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert main(small(data, tmp_path, "--logger", "wandb")) == 0
    first = fake.inits[0]
    assert (first["name"], first["mode"], first["config"]["lr"]) == ("run", "offline", 1e-3)
    assert "W&B has no key here" in caplog.text
    losses = [point["task_1/loss"] for point in fake.points if "task_1/loss" in point]
    assert losses == [float(row["loss"]) for row in rows(tmp_path / "run" / "epochs.csv") if row["task_id"] == "1"]
    means = [(point["routed/after_task"], point["routed/image_auroc/mean"]) for point in fake.points
             if "routed/after_task" in point]  # fmt: skip
    assert [step for step, _ in means] == [0, 1]
    assert ("task_0/*", "task_0/epoch") in fake.axes and fake.finished == 1
    monkeypatch.setenv("WANDB_MODE", "online")
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["--resume", "--experiment_name", "run", "--log_dir", str(tmp_path), "--quiet"]) == 0
    assert (fake.inits[1]["id"], fake.inits[1]["mode"]) == (first["id"], None)


def test_a_logger_that_fails_does_not_end_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(FakeWandb):
        def log(self, values: dict[str, float]) -> None:
            raise ConnectionError("the network is away")

    monkeypatch.setitem(sys.modules, "wandb", Failing())
    assert main(small(data, tmp_path, "--logger", "wandb", "tensorboard")) == 0
    said = "--logger wandb fails (the network is away): the run goes on without it"
    assert [message for message in caplog.messages if "--logger" in message] == [said]
    assert list((tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(name, name), None)
    assert main(small(data, tmp_path / "logs", "--logger", name)) == 1
    assert f"--logger {name} needs the package: pip install 'moleflow_fast[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "logs" / "run").exists()


class FakeMlflow(SimpleNamespace):
    """A store of MLflow's that knows what is asked of it."""

    def __init__(self) -> None:
        super().__init__(store=None, tags={}, params={}, metrics=[], states=[])
        self.entities = SimpleNamespace(Metric=lambda key, value, timestamp, step: (key, value, step))

    def MlflowClient(self, tracking_uri: str) -> "FakeMlflow":  # noqa: N802 (its name)
        self.store = tracking_uri
        return self

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> list[Any]:
        known = [place for place in self.tags.values() if f"'{place}'" in filter_string]
        return [SimpleNamespace(info=SimpleNamespace(run_id="1")) for _ in known]

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        assert not self.tags
        self.tags = tags
        return SimpleNamespace(info=SimpleNamespace(run_id="1"))

    def log_param(self, run: str, name: str, value: str) -> None:
        self.params[name] = value

    def update_run(self, run: str, status: str) -> None:
        self.states.append(status)

    def log_batch(self, run: str, metrics: list[tuple[str, float, int]]) -> None:
        self.metrics += metrics

    def set_terminated(self, run: str) -> None:
        self.states.append("FINISHED")


@pytest.mark.parametrize("real", [False, True])
def test_mlflow(real: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if real and importlib.util.find_spec("mlflow") is None:
        pytest.skip("MLflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fake = FakeMlflow()
    if not real:
        monkeypatch.setitem(sys.modules, "mlflow", fake)
    assert main(small(data, tmp_path, "--logger", "mlflow")) == 0
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["--resume", "--experiment_name", "run", "--log_dir", str(tmp_path), "--quiet"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    expected = [(0, None), (1, summary["routed"]["image_auroc"])]
    if real:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("moleflow_fast").experiment_id])
        history = client.get_metric_history(run.info.run_id, "routed/image_auroc/mean")
        found, params = [(m.step, m.value) for m in history], run.data.params
    else:
        assert fake.store == f"sqlite:///{tmp_path}/mlflow.db" and fake.states == ["FINISHED", "RUNNING", "FINISHED"]
        found = [(step, value) for key, value, step in fake.metrics if key == "routed/image_auroc/mean"]
        params = fake.params
    assert [step for step, _ in found] == [0, 1] and found[1] == expected[1]
    assert params["lr"] == "0.001" and params["use_dia"] == "True"
