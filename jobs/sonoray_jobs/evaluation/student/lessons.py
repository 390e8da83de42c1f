"""From what a model said to tensors that a student learns from, and from its logits to answers.

Of several questions of one topic about one study the first counts, as for a linear probe. A topic
that no training study is asked about is none of the student's; an option that no training question
has gets a log-probability of -30.
"""

from collections.abc import Mapping, Sequence
from time import process_time
from typing import Any

import numpy as np
import torch

from llava_ultra.student.learning import Lessons
from llava_ultra.student.network import Student, pad_images
from sonoray.metrics import AnswerRecord

_UNSEEN = -30.0
_AT_ONCE = 16
"""Studies of a batch, as many as the model gets by default."""
_LEAST_DEVIATION = 1e-4

Row = Mapping[str, Any]
"""A study as `teaching.read_taught` gives it."""


def make_lessons(rows: Sequence[Row]) -> Lessons:
    """Put training studies into tensors."""
    topics = topics_of(rows)
    places = {topic: place for place, topic in enumerate(topics)}
    images, mask = pad_images([row["images"] for row in rows])
    shape = (len(rows), len(topics))
    most = max(map(len, topics.values()))
    asked = torch.zeros(shape, dtype=torch.bool)
    allowed = torch.zeros((*shape, most), dtype=torch.bool)
    truth = torch.zeros(shape, dtype=torch.int64)
    told = torch.zeros((*shape, most))
    states = torch.zeros((*shape, rows[0]["states"].shape[1]))
    shares = torch.zeros((*shape, mask.shape[1]))
    for at, row in enumerate(rows):
        for number, question in first_questions(row):
            place, options = places[question["topic"]], topics[question["topic"]]
            asked[at, place] = True
            truth[at, place] = options.index(question["truth"])
            for option, score in question["option_scores"].items():
                allowed[at, place, options.index(option)] = True
                told[at, place, options.index(option)] = score
            states[at, place] = torch.from_numpy(row["states"][number].copy())
            given = torch.tensor(question["image_scores"])
            total = float(given.sum())
            shares[at, place, : len(given)] = given / total if total > 0 else 1 / len(given)
    known = states[asked]
    deviation = known.std(dim=0, unbiased=False).clamp(min=_LEAST_DEVIATION)
    return Lessons(
        topics=topics,
        patients=[row["patient_key"] for row in rows],
        images=images,
        mask=mask,
        asked=asked,
        allowed=allowed,
        truth=truth,
        told=told,
        states=(states - known.mean(dim=0)) / deviation,
        shares=shares,
    )


def topics_of(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """By topic, all options of its questions as they come."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for _, question in first_questions(row):
            options = found.setdefault(question["topic"], {})
            options |= dict.fromkeys(question["option_scores"])
    return {topic: tuple(options) for topic, options in found.items()}


def first_questions(row: Row) -> list[tuple[int, Mapping[str, Any]]]:
    """The first question of each topic, with its number among the study's."""
    seen: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for number, question in enumerate(row["questions"]):
        seen.setdefault(question["topic"], (number, question))
    return list(seen.values())


def model_records(rows: Sequence[Row], topics: Mapping[str, Any]) -> list[AnswerRecord]:
    """The model's answers to the questions that a student is asked too."""
    return [
        _record(row, question, question["option_scores"])
        for row in rows
        for _, question in first_questions(row)
        if question["topic"] in topics
    ]


@torch.no_grad()
def student_records(
    student: Student, rows: Sequence[Row]
) -> tuple[list[AnswerRecord], list[float]]:
    """The student's answers to the same questions, and its CPU time a study of each batch."""
    topics = student.shape.topics
    places = {topic: place for place, topic in enumerate(topics)}
    found, times = [], []
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        begun = process_time()
        images, mask = pad_images([row["images"] for row in part])
        logits = student(images, mask).logits.numpy()
        times.append((process_time() - begun) / len(part))
        for row, own in zip(part, logits, strict=True):
            for _, question in first_questions(row):
                topic = question["topic"]
                if topic in topics:
                    values = own[places[topic], : len(topics[topic])]
                    scores = scores_of(values, topics[topic], question["option_scores"])
                    found.append(_record(row, question, scores))
    return found, times


def scores_of(
    logits: np.ndarray, known: Sequence[str], options: Mapping[str, Any]
) -> dict[str, float]:
    """Log-probability of each option of a question, from logits of the topic's options."""
    places = {option: place for place, option in enumerate(known)}
    own = [places[option] for option in options if option in places]
    total = float(np.logaddexp.reduce(logits[own])) if own else 0.0
    return {
        option: float(logits[places[option]]) - total if option in places else _UNSEEN
        for option in options
    }


def _record(row: Row, question: Mapping[str, Any], scores: Mapping[str, float]) -> AnswerRecord:
    return AnswerRecord(
        study_id=row["study_id"],
        patient_key=row["patient_key"],
        topic=question["topic"],
        truth=question["truth"],
        answer=max(scores, key=lambda option: scores[option]),
        options=tuple(scores),
        option_scores=dict(scores),
    )
