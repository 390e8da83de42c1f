"""Who answers a closed question: the student where it is sure, the model where it is not.

How sure the student must be is chosen so that the accuracy over all questions falls by no more than
a budget, and the student answers as many as possible. It is chosen on the validation split, which
neither of both has learned from. Where that is judged itself, or has few patients, it is chosen on
the fifth of the training's patients that was left out of the student's: the model has seen them and
looks better there than it is, so that the student gets too few questions rather than too many.

Axes: N questions.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llava_ultra.student.student_card import Route, least_confidence
from sonoray.metrics import AnswerRecord

LEAST_PATIENTS = 10
"""Fewer say nothing of how sure a student must be."""


def find_routes(model: Sequence[AnswerRecord], student: Sequence[AnswerRecord]) -> list[Route]:
    """What each way of sharing the questions costs, from the surest answers on.

    Of several that lose the same, or that lose less while the student answers more, the last alone.

    Args:
        model: its answers.
        student: the student's, to the same questions.
    """
    sure = np.array([confidence(record) for record in student])
    gain = np.array([_is_right(own) for own in student], float) - [_is_right(own) for own in model]
    order = np.argsort(-sure, kind="stable")
    lost = -np.cumsum(gain[order]) / len(student)
    ends = np.append(np.diff(sure[order]) != 0, True)  # equally sure answers go the same way
    found: list[Route] = []
    for place in np.flatnonzero(ends)[::-1]:
        if not found or lost[place] < found[-1].lost - 1e-12:
            route = Route(
                least_confidence=float(sure[order][place]),
                lost=float(lost[place]),
                share=float(place + 1) / len(student),
            )
            found.append(route)
    return found[::-1]


def choose_confidence(
    model: Sequence[AnswerRecord], student: Sequence[AnswerRecord], budget: float
) -> float:
    """The least probability of its answer with which the student answers; infinite for never.

    Args:
        model: its answers.
        student: the student's, to the same questions.
        budget: by how much the accuracy of both together may be below the model's.
    """
    least = least_confidence(find_routes(model, student), budget)
    return math.inf if least is None else least


def cooled(records: Sequence[AnswerRecord], temperature: float) -> list[AnswerRecord]:
    """The same answers with probabilities as a calibration makes them."""
    return [
        replace(
            record,
            option_scores={
                option: score / temperature for option, score in record.option_scores.items()
            },
        )
        for record in records
    ]


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
