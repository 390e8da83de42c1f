"""The closed questions that training studies ask, and which of them are asked before a report.

A question counts where it can be put to other studies: a topic with one set of options, few
wordings, asked of at least two patients. Not every one is asked of every study: nobody asks for the
margin of a lesion that is not there. So an earlier answer after which the training studies never go
on to a question rules that question out, where chance alone would explain it in fewer than one of
100 data sets. What becomes of them: `sonoray.study.prompt`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sonoray.study.contract import Study, Task
from sonoray.study.prompt import NO_PROTOCOL, ProtocolQuestion, ReportProtocol

MOST_WORDINGS = 5
"""Questions of a topic that may be wordings of one; a topic of more asks several things."""
LEAST_PATIENTS = 2
"""Training patients of whom a question is asked, else it may be written about one of them."""

_CHANCE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedQuestion:
    """What training asks on one closed topic."""

    question: str
    """Its commonest wording."""
    options: tuple[str, ...]
    """In the order of training."""
    answers: Mapping[str, int]
    """How often each was the answer."""


@dataclass(kw_only=True, slots=True)
class _Asked:
    """What training asks on one topic, as it is counted."""

    patients: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By question: of whom."""
    options: dict[tuple[str, ...], None] = field(default_factory=dict)
    """Lists of options, in the order in which they come."""
    answers: Counter[str] = field(default_factory=Counter)
    places: int = 0
    """Sum, over studies, of the closed topics in front of it."""

    def is_one_question(self) -> bool:
        """Whether it can be asked of studies that do not ask it themselves."""
        return (
            len({frozenset(options) for options in self.options}) == 1
            and len(next(iter(self.options))) > 1
            and _is_common(self.patients)
        )

    def to_question(self) -> ClosedQuestion:
        """What was counted."""
        return ClosedQuestion(
            question=max(
                self.patients, key=lambda question: (len(self.patients[question]), question)
            ),
            options=next(iter(self.options)),
            answers=dict(sorted(self.answers.items())),
        )


def _is_common(patients: Mapping[str, set[str]]) -> bool:
    """Whether questions, with those who were asked, are wordings of one."""
    return (
        0 < len(patients) <= MOST_WORDINGS
        and max(len(of_whom) for of_whom in patients.values()) >= LEAST_PATIENTS
    )


@dataclass(kw_only=True, slots=True)
class _Census:
    """Counts over studies, of which none is kept."""

    topics: defaultdict[str, _Asked] = field(default_factory=lambda: defaultdict(_Asked))
    reports: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By wording: patients."""
    studies: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Studies that answer a topic so."""
    going_on: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Those of them that answer another topic too."""

    def add(self, study: Study) -> None:
        """Count a study in."""
        closed: dict[str, str] = {}
        for turn in study.turns:
            if turn.task is Task.REPORT:
                self.reports[turn.question.strip()].add(study.patient_key)
            if turn.topic and turn.options:
                topic = self.topics[turn.topic]
                topic.patients[turn.question].add(study.patient_key)
                topic.options[turn.options] = None
                topic.answers[turn.answer] += 1
                topic.places += len(closed)
                closed[turn.topic] = turn.answer
        self.studies.update(closed.items())
        self.going_on.update(
            (topic, answer, other) for topic, answer in closed.items() for other in closed
        )

    def questions(self) -> dict[str, ClosedQuestion]:
        """The topics that can be asked of other studies, by name."""
        return {
            name: topic.to_question()
            for name, topic in sorted(self.topics.items())
            if topic.is_one_question()
        }

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Topics by how many closed ones stand in front of them, on average."""
        return sorted(names, key=lambda name: (self.topics[name].places / self._number(name), name))

    def not_after(self, topic: str, earlier: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """By earlier topic: the answers after which studies never go on to a topic."""
        found = {}
        for before in earlier:
            number = {answer: self.studies[before, answer] for answer in self._answers(before)}
            going_on = {answer: self.going_on[before, answer, topic] for answer in number}
            share = 1 - sum(going_on.values()) / sum(number.values())
            excluded = tuple(
                answer
                for answer in sorted(number)
                if not going_on[answer]
                and number[answer] >= LEAST_PATIENTS
                and number[answer] * math.log(share) < math.log(_CHANCE)
            )
            if excluded and share < 1:
                found[before] = excluded
        return found

    def _answers(self, topic: str) -> Iterable[str]:
        return self.topics[topic].answers

    def _number(self, topic: str) -> int:
        return self.topics[topic].answers.total()


def closed_questions(studies: Iterable[Study]) -> dict[str, ClosedQuestion]:
    """The closed topics of training studies that can be asked of others, by name.

    Args:
        studies: as they are trained on, without site cue.
    """
    census = _Census()
    for study in studies:
        census.add(study)
    return census.questions()


def read_protocol(studies: Iterable[Study]) -> ReportProtocol:
    """Find the questions before a report in training studies.

    Args:
        studies: as they are trained on, without site cue.

    Returns:
        Without a question where no study has a report, or its reports are asked for in many words.
    """
    census = _Census()
    for study in studies:
        census.add(study)
    if not _is_common(census.reports):
        return NO_PROTOCOL
    topics = census.questions()
    order = census.in_order(topics)
    return ReportProtocol(
        questions=tuple(
            ProtocolQuestion(
                topic=topic,
                question=topics[topic].question,
                options=topics[topic].options,
                not_after=census.not_after(topic, order[:place]),
            )
            for place, topic in enumerate(order)
        ),
        reports=tuple(sorted(census.reports)),
    )
