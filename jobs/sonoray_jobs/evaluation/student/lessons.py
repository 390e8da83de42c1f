"""From what a model said to tensors that a student learns from, and from its logits to answers.

Of several questions of one topic about one study the first counts, as for a linear probe. A topic
that no training study is asked about is none of the student's; an option that no training question
has gets a log-probability of -30.
"""

from collections.abc import Mapping, Sequence
from time import process_time
from typing import Any

import torch

from llava_ultra.student.learning import Lessons
from llava_ultra.student.network import Student, pad_images
from llava_ultra.student.student_card import scores_of
from sonoray.metrics import AnswerRecord
from sonoray.study.prompt import FOLLOW_UP, split_site

_AT_ONCE = 16
"""Studies of a batch, as many as the model gets by default."""
_LEAST_DEVIATION = 1e-4

MOST_WORDINGS = 32
"""Wordings of a topic that a student is known by."""

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


def wordings_of(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """By topic, how its question is worded, without the examination site, commonest first.

    At most `MOST_WORDINGS`, and none that one patient alone was asked: such a text may say
    something of that patient, and these go with the model. A topic about which one study is asked
    in two ways is left out: these are two questions, and the student reads neither.
    """
    several = {FOLLOW_UP}
    for row in rows:
        texts: dict[str, set[str]] = {}
        for each in row["questions"]:
            texts.setdefault(each["topic"], set()).add(split_site(each["question"])[1].strip())
        several |= {topic for topic, own in texts.items() if len(own) > 1}
    counts: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for _, question in first_questions(row):
            if question["topic"] in several:
                continue
            text = split_site(question["question"])[1].strip()
            asked = counts.setdefault(question["topic"], {}).setdefault(text, set())
            asked.add(row["patient_key"])
    found = {}
    for topic, wordings in counts.items():
        common = sorted(wordings, key=lambda text: -len(wordings[text]))[:MOST_WORDINGS]
        found[topic] = tuple(text for text in common if len(wordings[text]) > 1)
    return found


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
                    scores = scores_of(values, topics[topic], tuple(question["option_scores"]))
                    found.append(_record(row, question, scores))
    return found, times


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
