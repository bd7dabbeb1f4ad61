"""MLflow: a server's store where one is named, else `mlflow.db` beside the run directories."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.directory import RunDirectory

EXPERIMENT = "moleflow_fast"
_PLACE = "moleflow_fast.directory"
_LONGEST = 500  # characters of a parameter's value


def load() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed.
    """
    import mlflow

    return mlflow


class MlflowLogger:
    """A `Logger`. A run that is resumed, or extended, goes on with its curves: it is found by its directory.

    `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` count as ever.
    """

    def __init__(self, directory: RunDirectory, options: RunOptions) -> None:
        mlflow = load()
        place = os.path.realpath(directory.path)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{os.path.dirname(place)}/mlflow.db"
        self._metric = mlflow.entities.Metric
        self._client = mlflow.MlflowClient(tracking_uri=store)
        experiment = _experiment(self._client)
        self._run = _run_of(self._client, experiment, place)
        if self._run is None:
            tags = {_PLACE: place}
            run = self._client.create_run(experiment, run_name=os.path.basename(place), tags=tags)
            self._run = run.info.run_id
            for name, value in _flat(options).items():
                self._client.log_param(self._run, name, str(value)[:_LONGEST])
        else:
            self._client.update_run(self._run, status="RUNNING")

    def log(self, values: Mapping[str, float], axis: str, step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(_allowed(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    known = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if known is None else known.experiment_id)


def _run_of(client: Any, experiment: str, place: str) -> str | None:
    quoted = place.replace("'", "\\'")
    found = client.search_runs([experiment], filter_string=f"tags.`{_PLACE}` = '{quoted}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _flat(options: RunOptions) -> dict[str, Any]:
    values = options.to_json()
    return {**values, **values.pop("ablation")}


def _allowed(name: str) -> str:
    """MLflow takes letters, digits and a few signs."""
    return re.sub(r"[^/\w.\- ]", "_", name)
