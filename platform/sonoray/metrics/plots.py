"""Metrics as pictures: scores with their intervals, ROC curves, values over training steps.

They show topics and numbers, nothing of a patient, so they may go to MLflow. Each function writes a
PNG. Figures are made without pyplot: no window, no global state, any thread.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.errors import DataError
from sonoray.metrics.answers import AnswerRecord, class_scores
from sonoray.metrics.closed import ClosedMetrics
from sonoray.metrics.resampling import Estimate

_DPI = 120


def plot_closed(metrics: Sequence[ClosedMetrics], path: Path) -> None:
    """Draw accuracy, balanced accuracy and AUC of each topic with intervals, beside the constant.

    A dot with a bar is a value with its interval; a cross is the accuracy of the constant answer.

    Raises:
        DataError: there is no topic.
    """
    if not metrics:
        raise DataError("no closed question to draw; leave the plot out")
    figure, axes = _figure(width=7, height=1.2 + 0.55 * len(metrics))
    series: list[tuple[str, list[Estimate | None]]] = [
        ("accuracy", [item.accuracy for item in metrics]),
        ("balanced accuracy", [item.balanced_accuracy for item in metrics]),
        ("AUC", [item.auc for item in metrics]),
    ]
    rows = np.arange(len(metrics))
    for place, (label, values) in enumerate(series):
        kept = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
        axes.errorbar(
            [value.value for _, value in kept],
            [row + 0.2 * (place - 1) for row, _ in kept],
            xerr=np.array([_arms(value) for _, value in kept]).reshape(-1, 2).T,
            fmt="o",
            markersize=4,
            capsize=2,
            label=label,
        )
    constant = [
        (row - 0.2, item.constant_accuracy.value)
        for row, item in zip(rows, metrics, strict=True)
        if item.constant_accuracy is not None
    ]
    axes.plot(
        [value for _, value in constant],
        [row for row, _ in constant],
        "x",
        color="black",
        label="accuracy of the constant answer",
    )
    axes.set_yticks(rows, [f"{item.topic} ({item.num_questions})" for item in metrics])
    axes.set_xlim(-0.02, 1.02)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")


def plot_roc(records: Sequence[AnswerRecord], metrics: Sequence[ClosedMetrics], path: Path) -> bool:
    """Draw the ROC curve of each topic with two options and an AUC.

    Args:
        records: the answers that `metrics` were computed from.
        metrics: which topics there are, and which option is positive.
        path: the PNG.

    Returns:
        Whether there was such a topic; no file is written otherwise.
    """
    topics = [item for item in metrics if item.positive is not None and item.auc is not None]
    if not topics:
        return False
    from sklearn.metrics import roc_curve

    figure, axes = _figure(width=5, height=5)
    for item in topics:
        own = [record for record in records if record.options and record.topic == item.topic]
        scores = class_scores(own, item.options)
        assert scores is not None  # else there were no AUC
        truth = [record.truth == item.positive for record in own]
        false_rate, true_rate, _ = roc_curve(truth, scores[:, 0])
        assert item.auc is not None
        axes.plot(false_rate, true_rate, label=f"{item.topic}, AUC {item.auc.value:.3f}")
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")
    return True


def plot_history(
    history: Mapping[str, Sequence[tuple[int, float]]], path: Path, limits: tuple[float, float]
) -> None:
    """Draw metrics of a training over its steps.

    Args:
        history: by metric, (step, value) in the order of steps.
        path: the PNG.
        limits: range of what the metrics can be, so that noise does not look like a trend.
    """
    figure, axes = _figure(width=6, height=3.5)
    for name, points in sorted(history.items()):
        axes.plot([step for step, _ in points], [value for _, value in points], ".-", label=name)
    axes.set_xlabel("step")
    axes.set_ylim(*limits)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")


def _figure(*, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _arms(estimate: Estimate) -> tuple[float, float]:
    """Lengths of the error bar below and above the value."""
    if estimate.low is None or estimate.high is None:
        return 0.0, 0.0
    return max(0.0, estimate.value - estimate.low), max(0.0, estimate.high - estimate.value)
