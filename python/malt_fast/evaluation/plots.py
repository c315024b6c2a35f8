"""Plots of an evaluation and of a sweep as SVG files, drawn with matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from malt_fast.evaluation.result import EvaluationResult
from malt_fast.evaluation.statistics import Interval
from malt_fast.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73")  # Okabe and Ito's, safe for colour-blind


def plot_curves(path: Path, result: EvaluationResult) -> None:
    """Accuracy against calls per question: maj@k (bold) and pass@k (thin), with intervals."""
    figure, axis = _figure(f"{result.task}, {result.systems[0].n:,} questions", "calls")
    for colour, (name, curve) in zip(COLOURS, result.curves.items(), strict=False):
        lines = (
            (f"{name}, maj@k", 2.2, curve.majority, curve.majority_ci95),
            (f"{name}, pass@k", 0.8, curve.pass_at_k, curve.pass_ci95),
        )
        marker = "o" if len(curve.calls) == 1 else None  # a line needs two points
        for label, width, shares, intervals in lines:
            values, (low, high) = 100 * np.array(shares), 100 * np.array(intervals).T
            axis.plot(curve.calls, values, color=colour, lw=width, label=label, marker=marker)
            axis.fill_between(curve.calls, low, high, color=colour, alpha=0.15, lw=0)
    axis.set_ylim(0, 100)
    _save(figure, axis, path)


def plot_sweep(
    path: Path, key: str, values: Sequence[Any], rows: dict[str, list[tuple[float, Interval]]]
) -> None:
    """Accuracy against a setting's values; rows: (accuracy, interval) per value, by system."""
    figure, axis = _figure("", key)
    numbers = all(type(value) in (int, float) for value in values)
    at = np.array(values if numbers else range(len(values)), float)
    for colour, (name, points) in zip(COLOURS, rows.items(), strict=False):
        share = np.array([share for share, _ in points])
        low, high = np.array([interval for _, interval in points]).T
        error = 100 * np.maximum(0, [share - low, high - share])
        axis.errorbar(at, 100 * share, error, color=colour, marker="o", capsize=3, label=name)
    axis.set_xticks(at, [str(value) for value in values])
    _save(figure, axis, path)


def _figure(title: str, xlabel: str) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.set(title=title, xlabel=xlabel, ylabel="accuracy, %")
    axis.grid(alpha=0.3)
    return figure, axis


def _save(figure: "Figure", axis: Any, path: Path) -> None:
    """Write the SVG: the same figures give the same bytes."""
    from matplotlib import rc_context

    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "malt_fast", "text.parse_math": False}),
        replacing(path) as beside,
    ):
        figure.savefig(beside, format="svg", metadata={"Date": None})
