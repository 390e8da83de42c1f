"""Figures of one class: threshold of best F1, F1, accuracy and average precision, weighted.

Scores (N,) and truths (N,) are taken once, and a `Metric` is returned, from weights of the studies
to values, as in `sonoray.metrics.class_rates`. What a draw leaves undefined is NaN.
"""

import numpy as np
import numpy.typing as npt

from sonoray.metrics.resampling import Floats, Metric, mean_metric

Bools = npt.NDArray[np.bool_]


def best_f1_threshold(scores: Floats, truth: Bools) -> float | None:
    """The score from which on calling a study positive gives the best F1; the highest of equals.

    None where no study is positive.
    """
    if not truth.any():
        return None
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(truth[order])
    called = np.arange(1, len(scores) + 1)
    f1 = 2 * right / (called + truth.sum())
    ends = np.append(np.diff(scores[order]) != 0, True)  # equal scores are called together
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    return float(scores[order][best])


def f1_at(scores: Floats, truth: Bools, threshold: float) -> Metric:
    """F1 where scores from a threshold on are called positive; draws without a positive: NaN."""
    called = scores >= threshold
    hits, ones, calls = ((each).astype(np.float64) for each in (called & truth, truth, called))

    def metric(weights: Floats) -> Floats:
        total = weights @ ones
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, 2 * (weights @ hits) / (total + weights @ calls), np.nan)

    return metric


def accuracy_at(scores: Floats, truth: Bools, threshold: float) -> Metric:
    """Share of the studies that a threshold calls right."""
    return mean_metric(((scores >= threshold) == truth).astype(np.float64))


def average_precision(scores: Floats, truth: Bools) -> Metric:
    """Area below precision over recall, as steps; draws without a positive are undefined."""
    order = np.argsort(-scores, kind="stable")
    positive = truth[order].astype(np.float64)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # one step per value

    def metric(weights: Floats) -> Floats:
        ranked = weights[:, order]
        right = np.cumsum(ranked * positive, axis=1)[:, ends]
        called = np.cumsum(ranked, axis=1)[:, ends]
        gained = np.diff(right, axis=1, prepend=0.0)
        total = right[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            area = np.where(called > 0, gained * right / called, 0.0).sum(axis=1)
            return np.where(total > 0, area / total, np.nan)

    return metric
