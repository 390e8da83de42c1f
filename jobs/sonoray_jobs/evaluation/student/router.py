"""Who answers a closed question: the student where it is sure, the model where it is not.

How sure the student must be is chosen so that the accuracy over all questions falls by no more than
a budget, and the student answers as many as possible. It is chosen on patients that this student
has not seen: the fifth that was left out of the training. The model has seen them, so that it looks
better there than it is; the student therefore gets too few questions rather than too many.

Axes: N questions.
"""

import math
from collections.abc import Sequence

import numpy as np

from sonoray.metrics import AnswerRecord


def choose_confidence(
    model: Sequence[AnswerRecord], student: Sequence[AnswerRecord], budget: float
) -> float:
    """The least probability of its answer with which the student answers; infinite for never.

    Args:
        model: its answers.
        student: the student's, to the same questions.
        budget: by how much the accuracy of both together may be below the model's.
    """
    sure = np.array([confidence(record) for record in student])
    gain = np.array([_is_right(own) for own in student], float) - [_is_right(own) for own in model]
    order = np.argsort(-sure, kind="stable")
    lost = -np.cumsum(gain[order]) / len(student)
    ends = np.append(np.diff(sure[order]) != 0, True)  # equally sure answers go the same way
    allowed = np.flatnonzero((lost <= budget + 1e-12) & ends)
    return float(sure[order][allowed[-1]]) if len(allowed) else math.inf


def route(
    model: Sequence[AnswerRecord], student: Sequence[AnswerRecord], least: float
) -> tuple[list[AnswerRecord], float]:
    """The answers of both together, and the share of questions that the student answers.

    Args:
        model: its answers.
        student: the student's, to the same questions.
        least: as `choose_confidence` gives it.
    """
    takes = [confidence(record) >= least for record in student]
    answers = [
        own if taken else theirs for theirs, own, taken in zip(model, student, takes, strict=True)
    ]
    return answers, sum(takes) / len(takes)


def confidence(record: AnswerRecord) -> float:
    """Probability of the answer among the question's options."""
    scores = np.array(list(record.option_scores.values()))
    return float(np.exp(scores.max() - np.logaddexp.reduce(scores)))


def _is_right(record: AnswerRecord) -> bool:
    return record.answer == record.truth
