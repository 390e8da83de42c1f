"""Rates of closed questions' answers: accuracy, balanced accuracy, F1 and AUC, weighted.

Each function takes the answers once and returns a `Metric`: from weights of the answers, as the
bootstrap draws them, to values. What a draw leaves undefined is NaN.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sonoray.metrics.answers import AnswerRecord
from sonoray.metrics.resampling import Floats, Metric, mean_metric


def accuracy_metric(records: Sequence[AnswerRecord]) -> Metric:
    """Share of the answers that are the truth, whatever the topics."""
    return mean_metric(np.array([float(record.answer == record.truth) for record in records]))


def f1_metric(
    truth: npt.NDArray[np.int64], answer: npt.NDArray[np.int64], classes: Sequence[int]
) -> Metric:
    """Mean F1 over those of `classes` that a draw holds as truth or answer.

    Args:
        truth: the true class of each answer.
        answer: the class that was answered; -1 for none of them.
        classes: the classes that count.
    """
    wanted, given = (
        np.stack([values == number for number in classes], axis=1).astype(np.float64)
        for values in (truth, answer)
    )

    def metric(weights: Floats) -> Floats:
        total = weights @ wanted + weights @ given
        with np.errstate(invalid="ignore"):
            scores = np.where(total > 0, 2 * (weights @ (wanted * given)) / total, np.nan)
        return _mean_of_defined(scores, at_least=1)

    return metric


def balanced_accuracy_metric(hits: Floats, truth: npt.NDArray[np.int64]) -> Metric:
    """Mean recall over the classes that a draw holds; a draw of one class is undefined."""
    classes = np.unique(truth)
    members = (truth[:, None] == classes[None, :]).astype(np.float64)

    def metric(weights: Floats) -> Floats:
        total = weights @ members
        right = weights @ (members * hits[:, None])
        with np.errstate(invalid="ignore"):
            recall = np.where(total > 0, right / total, np.nan)
        return _mean_of_defined(recall, at_least=min(2, classes.size))

    return metric


def auc_metric(scores: Floats, truth: npt.NDArray[np.int64]) -> Metric:
    """Mean one-against-the-rest AUC over the columns of `scores`.

    Args:
        scores: a score for each class, or one column for class 1 of two classes.
        truth: the true class of each answer, an index of a column (0 or 1 for one column).
    """
    if scores.shape[1] == 1:
        parts = [_binary_auc_metric(scores[:, 0], truth == 1)]
    else:
        parts = [
            _binary_auc_metric(column, truth == number) for number, column in enumerate(scores.T)
        ]

    def metric(weights: Floats) -> Floats:
        return _mean_of_defined(np.stack([part(weights) for part in parts], axis=1), at_least=1)

    return metric


def _binary_auc_metric(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> Metric:
    """Weighted share of (positive, negative) pairs that the score orders; ties count half."""
    order = np.argsort(scores, kind="stable")
    positive = is_positive[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # one group per value

    def metric(weights: Floats) -> Floats:
        ranked = weights[:, order]
        positives = np.add.reduceat(ranked * positive, starts, axis=1)
        negatives = np.add.reduceat(ranked * (1 - positive), starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        ordered = (positives * below).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.where(pairs > 0, ordered / pairs, np.nan)

    return metric


def _mean_of_defined(values: Floats, *, at_least: int) -> Floats:
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(count >= at_least, total / np.maximum(count, 1), np.nan)
