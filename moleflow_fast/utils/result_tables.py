"""The CSV tables of the published package, by its file names and columns, for scripts that read them.

Figures are fractions in full precision, but where a table says percent. What is not known is -1.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from moleflow_fast.system.files import replacing, writing

Values = Sequence[float]
Routing = Sequence[float | None] | None
UNKNOWN = -1.0
_SWITCHES = ("use_lora", "use_router", "use_task_adapter", "use_pos_embedding", "use_task_bias", "use_mahalanobis")


def time_stamp() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


def training_log(
    folder: Path, task_id: int, epoch: int, iteration: int, losses: Mapping[str, Any], lr: float, stage: str
) -> None:
    """Append a row to `training_log_task_{t}.csv`; columns of losses are those of the first row."""
    file = folder / f"training_log_task_{task_id}.csv"
    header = ["timestamp", "task_id", "epoch", "iteration", "stage", *sorted(losses), "lr"]
    if file.exists():
        header = _header_of(file)
    known = {"timestamp": time_stamp(), "task_id": task_id, "epoch": epoch, "iteration": iteration, "stage": stage}
    values = {name: float(value or 0.0) for name, value in losses.items()}
    row = {**values, **known, "lr": lr}
    _append(file, header, [row.get(name, 0.0) for name in header])


def evaluation(
    folder: Path, task_id: int, epoch: int, classes: Sequence[str], image: Values, pixel: Values, routing: Routing
) -> bool:
    """Append a row to `evaluation_results_task_{t}.csv`; False where it had other classes and begins anew."""
    file = folder / f"evaluation_results_task_{task_id}.csv"
    header = ["timestamp", "task_id", "epoch", *_columns(classes, routing), *_means(routing)]
    same = not file.exists() or _header_of(file) == header
    if not same:
        file.unlink()
    _append(file, header, [time_stamp(), task_id, epoch, *_wide(image, pixel, routing)])
    return same


def unified(
    folder: Path, task_id: int, epoch: int, classes: Sequence[str], image: Values, pixel: Values,
    every_class: Sequence[str], routing: Routing,
) -> None:  # fmt: skip
    """Append a row to `unified_evaluation_results.csv`, with -1 for classes that were not evaluated."""
    header = ["timestamp", "current_task_id", "epoch", *_columns(every_class, routing), *_means(routing)]
    figures = dict(zip(classes, zip(image, pixel, *_known(routing), strict=True), strict=True))
    unknown = (-1, -1) if routing is None else (-1, -1, UNKNOWN)
    cells = [value for name in every_class for value in figures.get(name, unknown)]
    row = [time_stamp(), task_id, epoch, *cells, *_mean_values(image, pixel, routing)]
    _append(folder / "unified_evaluation_results.csv", header, row)


def continual(
    folder: Path, task_id: int, current: Sequence[str], classes: Sequence[str], image: Values, pixel: Values,
    tasks: Sequence[Sequence[str]], routing: Routing,
) -> None:  # fmt: skip
    """Write `continual_results_after_task_{t}.csv`: a row a class, then means over all and over each task."""
    task_of = {name: t for t, names in reversed(list(enumerate(tasks))) for name in names}
    figures = list(zip(image, pixel, *_known(routing), strict=True))

    def row(name: str, task: Any, values: Sequence[float], is_current: Any) -> list[Any]:
        return [name, task, *values[:2], is_current, *values[2:]]

    rows = [
        row(name, task_of.get(name, -1), values, name in current) for name, values in zip(classes, figures, strict=True)
    ]
    rows.append(row("Average", "", _mean_values(image, pixel, routing), ""))
    for t in range(task_id + 1):
        chosen = [i for i, name in enumerate(classes) if task_of.get(name) == t]
        if chosen:
            some = [[values[i] for i in chosen] for values in (image, pixel)]
            means = _mean_values(some[0], some[1], None if routing is None else [routing[i] for i in chosen])
            rows.append(row(f"Task_{t}_Average", t, means, ""))
    header = ["class_name", "task_id", "img_auc", "pixel_auc", "is_current_task"]
    header += [] if routing is None else ["routing_accuracy"]
    _write(folder / f"continual_results_after_task_{task_id}.csv", header, rows)


def final(folder: Path, results: Mapping[str, Any]) -> list[list[str]]:
    """Write `final_results.csv` from what `evaluate_all_tasks` gives; returns its rows, the header first.

    Routing accuracies are percentages here, and the means carry an asterisk.
    """
    header = ["Task ID", "Class Name", "Routing Acc (%)", "Image AUC", "Pixel AUC", "Image AP", "Pixel AP"]
    count = len(results["classes"])
    columns = [results.get(name) or [0.0] * count for name in ("img_aucs", "pixel_aucs", "img_aps", "pixel_aps")]
    routing = results.get("routing_accuracies") or [None] * count
    rows = [
        [str(task), name, _percent(accuracy), *(f"{value:.4f}" for value in values)]
        for task, name, accuracy, *values in zip(
            results["task_ids"], results["classes"], routing, *columns, strict=True
        )
    ]
    known = [value for value in routing if value is not None]
    means = [f"{fmean(column):.4f}*" for column in columns] if count else []
    rows.append(["Mean", "Overall", _percent(fmean(known) if known else None), *means])
    _write(folder / "final_results.csv", header, rows)
    return [header, *rows]


def summary_of(
    experiment: str, strategy: str, classes: Sequence[str], kinds: Mapping[str, Values], tasks: int, config: Any,
    routing_accuracy: float | None, besides: Mapping[str, Any],
) -> list[tuple[str, Any]]:  # fmt: skip
    """The pairs of `final_summary_{experiment}.csv`.

    Args:
        kinds: figures of each class by `img_auc`, `pixel_auc`, `img_ap`, `pixel_ap`.
        config: switches are read from it; None leaves them out.
    """
    pairs: list[tuple[str, Any]] = [("experiment_name", experiment), ("strategy", strategy)]
    pairs += [(f"final_average_{kind}", _mean(values)) for kind, values in kinds.items()]
    pairs += [("total_classes", len(classes)), ("total_tasks", tasks)]
    pairs += [] if routing_accuracy is None else [("final_routing_accuracy", routing_accuracy)]
    if config is not None:
        pairs += [("---ablation_config---", ""), *((name, getattr(config, name)) for name in _SWITCHES)]
    pairs.append(("---class_results---", ""))
    pairs += [(f"{name}_{kind}", values[i]) for i, name in enumerate(classes) for kind, values in kinds.items()]
    if besides:
        pairs += [("---additional_metrics---", ""), *besides.items()]
    return pairs


def summary(file: Path, pairs: Iterable[tuple[str, Any]]) -> None:
    """Write a table of two columns, metric and value."""
    _write(file, ["metric", "value"], [list(pair) for pair in pairs])


_TRAINING = ("task_id", "epoch", "stage", "loss", "learning_rate")
_EVALUATION = ("class_name", "task_id", "img_auc", "pixel_auc", "img_ap", "pixel_ap", "routing_accuracy")


def metrics(file: Path, training: Mapping[str, Sequence[Any]], evaluation: Mapping[str, Sequence[Any]]) -> None:
    """Write all epochs, then all evaluations, an empty cell where a column is of the other kind.

    There is no file where there are neither.
    """
    both_kinds = ((_TRAINING, training), (_EVALUATION, evaluation))
    kinds = [(names, values) for names, values in both_kinds if values["task_id"]]
    if not kinds:
        return
    header = list(dict.fromkeys(name for names, _ in kinds for name in names))
    both = len(kinds) == 2  # the published table is then of floats, but for names and tasks
    rows = []
    for _, values in kinds:
        for i in range(len(values["task_id"])):
            row = {name: column[i] for name, column in values.items()}
            if both and "epoch" in row:
                row["epoch"] = float(row["epoch"])
            rows.append([row.get(name, "") for name in header])
    _write(file, header, rows)


def _percent(fraction: float | None) -> str:
    return "N/A" if fraction is None else f"{100 * fraction:.2f}"


def _columns(classes: Sequence[str], routing: Routing) -> list[str]:
    kinds = ("img_auc", "pixel_auc") if routing is None else ("img_auc", "pixel_auc", "routing_acc")
    return [f"{name}_{kind}" for name in classes for kind in kinds]


def _means(routing: Routing) -> list[str]:
    return ["mean_img_auc", "mean_pixel_auc", *([] if routing is None else ["mean_routing_acc"])]


def _wide(image: Values, pixel: Values, routing: Routing) -> list[float]:
    cells = [value for values in zip(image, pixel, *_known(routing), strict=True) for value in values]
    return [*cells, *_mean_values(image, pixel, routing)]


def _known(routing: Routing) -> list[list[float]]:
    return [] if routing is None else [[UNKNOWN if value is None else float(value) for value in routing]]


def _mean_values(image: Values, pixel: Values, routing: Routing) -> list[float]:
    means = [_mean(image), _mean(pixel)]
    if routing is None:
        return means
    known = [value for value in routing if value is not None]
    return [*means, fmean(known) if known else UNKNOWN]


def _mean(values: Values) -> float:
    return fmean(values) if len(values) else math.nan


def _header_of(file: Path) -> list[str]:
    with file.open(newline="") as stream:
        return next(csv.reader(stream), [])


def _append(file: Path, header: Sequence[str], row: Sequence[Any]) -> None:
    new = not file.exists()
    with writing(file), file.open("a", newline="") as stream:
        csv.writer(stream).writerows([header, row] if new else [row])


def _write(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(file) as temporary, temporary.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
