"""Figures as SVG: text stays text, and the same figures give the same bytes."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# The first is what matplotlib measures with, the others are where browsers find Korean.
_FONTS = ["DejaVu Sans", "Noto Sans KR", "Noto Sans CJK KR", "Apple SD Gothic Neo", "Malgun Gothic", "sans-serif"]
_BLUE, _GREY, _RED = "#1f6fb5", "#8a94a0", "#c0392b"
# Wide enough for a desk, and still legible when a phone shrinks it to its own width.
_WIDTH = 5.2
# Labels of points closer than this would cover each other.
_LABEL_PIXELS = 20


@dataclass(frozen=True)
class Series:
    """Mean and deviation (NaN where unknown) of one metric at each x."""

    label: str
    means: Sequence[float]
    deviations: Sequence[float]


def lines(name: str, x_label: str, x: Sequence[float], series: Sequence[Series], baseline: float) -> str:
    """One panel a series, one above the other; the baseline's x is marked."""
    with _styled(name):
        figure = Figure(figsize=(_WIDTH, 2.1 * len(series) + 0.5), layout="constrained")
        panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
        for axes, one in zip(panels, series, strict=True):
            deviations = np.nan_to_num(np.array(one.deviations, dtype=float))
            axes.errorbar(
                x, one.means, yerr=deviations, color=_BLUE, marker="o", markersize=5, capsize=3, linewidth=1.6
            )
            axes.axvline(baseline, color=_GREY, linestyle=":", linewidth=1.2)
            axes.set_ylabel(one.label)
            _plain(axes)
        if min(x) > 0 and max(x) >= 8 * min(x):
            panels[-1].set_xscale("log", base=2)
            panels[-1].xaxis.set_minor_locator(NullLocator())
        panels[-1].set_xticks(list(x), [f"{value:g}" for value in x])
        panels[-1].set_xlabel(x_label)
        return _svg(figure)


@dataclass(frozen=True)
class Point:
    """A configuration in the trade-off plot; `number` is its row in the table of the front, None off the front."""

    x: float
    y: float
    number: int | None = None
    is_baseline: bool = False


def trade_off(name: str, labels: tuple[str, str], points: Sequence[Point], baseline_label: str) -> tuple[str, int]:
    """(figure, number of points outside of it): far outliers would squeeze all others into a corner."""
    inside = _without_outliers(points)
    with _styled(name):
        figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
        axes = figure.subplots()
        front = sorted((p for p in inside if p.number is not None), key=lambda p: p.x)
        plain = [p for p in inside if p.number is None and not p.is_baseline]
        axes.scatter([p.x for p in plain], [p.y for p in plain], s=22, color=_GREY, alpha=0.75, linewidths=0)
        axes.plot([p.x for p in front], [p.y for p in front], color=_BLUE, marker="o", markersize=6, linewidth=1.3)
        for base in (p for p in inside if p.is_baseline):
            axes.scatter([base.x], [base.y], s=90, marker="*", color=_RED, zorder=4)
            label = axes.annotate(
                baseline_label, (base.x, base.y), (0, -16), textcoords="offset points", ha="center", color=_RED
            )
            label.set_bbox({"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1})
        axes.set_xlim(*_bounds([p.x for p in inside]))
        axes.set_ylim(*_bounds([p.y for p in inside]))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.locator_params(axis="x", nbins=6)
        _plain(axes)
        _number(figure, axes, front)
        return _svg(figure), len(points) - len(inside)


def confusion(name: str, labels: tuple[str, str], tasks: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Images by true task (rows) and routed task (columns), shaded by share of the row."""
    matrix = np.array(counts, dtype=float)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(max(_WIDTH - 0.8, 0.42 * len(tasks) + 1.6), 9.0)
    size = 9 if len(tasks) <= 8 else 7.5
    with _styled(name):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{int(matrix[row, column])}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=size)
        middle = np.arange(len(tasks)) + 0.5
        axes.set_xticks(middle, tasks, rotation=60, ha="right", rotation_mode="anchor", fontsize=size)
        axes.set_yticks(middle, tasks, fontsize=size)
        axes.tick_params(length=0)
        axes.set_xlabel(labels[1])
        axes.set_ylabel(labels[0])
        return _svg(figure)


def _number(figure: Figure, axes: Axes, front: Sequence[Point]) -> None:
    """Numbers above the points of the front; points too close for labels of their own share one, as `2, 3`."""
    figure.draw_without_rendering()
    places = [axes.transData.transform((point.x, point.y)) for point in front]
    clusters: list[list[int]] = []
    for i in range(len(front)):
        near = clusters and np.hypot(*(places[i] - places[clusters[-1][-1]])) < _LABEL_PIXELS
        clusters[-1].append(i) if near else clusters.append([i])
    for cluster in clusters:
        text = ", ".join(str(front[i].number) for i in reversed(cluster))
        x = float(np.mean([front[i].x for i in cluster]))
        y = max(front[i].y for i in cluster)
        axes.annotate(text, (x, y), (0, 6), textcoords="offset points", ha="center", color=_BLUE, fontsize=9)


def _without_outliers(points: Sequence[Point]) -> list[Point]:
    """Points above the lower fence of a box plot in both directions; the front and the baseline are always kept."""
    fences = []
    for values in ([p.x for p in points], [p.y for p in points]):
        low, high = np.percentile(values, [25, 75])
        fences.append(low - 1.5 * (high - low))
    return [p for p in points if p.number is not None or p.is_baseline or (p.x >= fences[0] and p.y >= fences[1])]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    margin = 0.08 * (max(values) - min(values)) or 0.001
    return min(values) - margin, max(values) + margin


def _plain(axes: Axes) -> None:
    axes.grid(color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="y", useOffset=False)


@contextmanager
def _styled(name: str) -> Iterator[None]:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.sans-serif": _FONTS,
        "font.size": 9.5,
        "axes.unicode_minus": False,
    }
    finder = logging.getLogger("matplotlib.font_manager")
    level = finder.level
    finder.setLevel(logging.ERROR)  # this machine need not have the fonts of a reader's browser
    try:
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            yield
    finally:
        finder.setLevel(level)


def _svg(figure: Figure) -> str:
    """The figure without declaration, date and creator: nothing that changes by itself, nothing that points outside."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    return re.sub(r"^.*?(?=<svg)", "", text, flags=re.DOTALL)
