"""What stands in front of a question: the examination site, and what was said before.

The site comes first as `train.site_cue` asks for it. Training writes it there and the server looks
for it, so its form stands here alone.

Which turns of a study stand alone a source says by the topic: a turn of the topic `follow_up`
(`第二个多大？`) is not understood without the turns before it. Training, evaluation and the service
put in front of it what was said since the last question that stands alone. In training and
evaluation that is what the archive says and not what the model would have answered, as is the
custom for visual dialogue (A. Das et al., "Visual Dialog", CVPR 2017).

A report and a closed answer come from the same images and the same model, and may still contradict
each other. With `train.closed_first` a report is the last turn of a conversation in which the
study's closed questions are answered first: in training as the archive answers them, afterwards as
the model itself does. The protocol says which questions those are; it is found in the training
studies (`sonoray_jobs.data.closed_questions`), and training, evaluation and service read it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from sonoray.config.model import Config
from sonoray.errors import DataError

if TYPE_CHECKING:
    from sonoray.study.contract import Study, Turn

SITE_CUE = "检查部位：{site}。"

SITE_LABEL = "site"
"""Study label: the examined body site, in the language of the questions."""

FOLLOW_UP = "follow_up"
"""Topic of a turn whose question needs the turn before it."""

PROTOCOL = "protocol"
"""Key of an exported manifest's provenance that holds the questions before a report."""

_REPORT = "report"
"""`sonoray.study.contract.Task.REPORT`, whose module brings Arrow along."""

_PATTERN = re.compile(SITE_CUE.format(site=r"\s*[^。\s][^。]*"))


class ProtocolQuestion(Config):
    """A closed question that can be put to any study."""

    topic: str
    question: str
    """Its commonest wording in training."""
    options: tuple[str, ...]
    not_after: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By earlier topic: answers after which it is not asked."""


class ReportProtocol(Config):
    """The questions before a report, in the order in which they are asked."""

    questions: tuple[ProtocolQuestion, ...] = ()
    reports: tuple[str, ...] = ()
    """Wordings that ask for a report."""

    def asks_report(self, question: str) -> bool:
        """Whether a question is one that asks for a report."""
        return question.strip() in self.reports

    def told(self, answers: Mapping[str, str]) -> list[ProtocolQuestion]:
        """The questions whose answers stand in front of a report.

        Args:
            answers: by topic; a question without one is left out.
        """
        kept: list[ProtocolQuestion] = []
        for question in self.questions:
            topics = {each.topic for each in kept}
            ruled_out = any(
                topic in topics and answers[topic] in excluded
                for topic, excluded in question.not_after.items()
            )
            if question.topic in answers and not ruled_out:
                kept.append(question)
        return kept

    def longest(self) -> "tuple[ReportProtocol, dict[str, str]]":
        """All questions whatever was answered, and by topic the longest option."""
        asked = [each.model_copy(update={"not_after": {}}) for each in self.questions]
        answers = {each.topic: max(each.options, key=len) for each in self.questions}
        return self.model_copy(update={"questions": tuple(asked)}), answers


NO_PROTOCOL = ReportProtocol()
"""Reports are asked for alone."""


def with_site(question: str, site: str) -> str:
    """Put the site in front of a question."""
    return SITE_CUE.format(site=site) + question


def names_site(question: str) -> bool:
    """Whether a question begins with a site."""
    return _PATTERN.match(question) is not None


def split_site(question: str) -> tuple[str, str]:
    """The site in front of a question, empty where there is none, and the rest."""
    found = _PATTERN.match(question)
    end = found.end() if found else 0
    return question[:end], question[end:]


def with_site_cue(study: "Study") -> "Study":
    """Return the study with its examination site, the label `site`, in front of every question.

    The sonographer knows the site before the first image; where the lesion is, and on which side,
    is part of the finding and not of the cue.

    Raises:
        DataError: the study has no such label.
    """
    site = study.labels.get(SITE_LABEL)
    if not site:
        raise DataError(
            f"study {study.study_id!r} of dataset {study.dataset!r} has no label {SITE_LABEL!r} "
            "for the site cue; set train.site_cue to false, or ingest a source that has it "
            "(the phantom does)"
        )
    turns = tuple(replace(turn, question=with_site(turn.question, site)) for turn in study.turns)
    return replace(study, turns=turns)


def begins_at(turns: "Sequence[Turn]", number: int) -> int:
    """Number of the turn with which the conversation of a turn begins; its own if it is alone."""
    while number > 0 and turns[number].topic == FOLLOW_UP:
        number -= 1
    return number


def dialogue(turns: "Sequence[Turn]", number: int) -> tuple[str, ...]:
    """Texts by user and assistant in turn, up to the question of a turn, which is the last."""
    before = turns[begins_at(turns, number) : number]
    told = (text for turn in before for text in (turn.question, turn.answer))
    return (*told, turns[number].question)


def conversation(
    turns: "Sequence[Turn]",
    number: int,
    protocol: ReportProtocol = NO_PROTOCOL,
    answers: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Texts by user and assistant in turn, up to the question of a turn, which is the last.

    Args:
        turns: of a study.
        number: which of them.
        protocol: what is asked before a report.
        answers: by topic, what the model said; by default what the archive says.
    """
    if turns[number].task != _REPORT or not protocol.questions:
        return dialogue(turns, number)
    own = {turn.topic: turn for turn in turns if turn.options}
    said = {topic: turn.answer for topic, turn in own.items()} if answers is None else answers
    known = {topic: answer for topic, answer in said.items() if topic in own}
    before = (
        text
        for question in protocol.told(known)
        for text in (own[question.topic].question, known[question.topic])
    )
    return (*before, turns[number].question)


def with_protocol(study: "Study", protocol: ReportProtocol) -> "Study":
    """The study with the protocol's questions that it lacks, told and not asked of it.

    They have no answer: the model gives it. A study without a report stays as it is.
    """
    from sonoray.study.contract import Task, Turn

    if not any(turn.task is Task.REPORT for turn in study.turns):
        return study
    own = {turn.topic for turn in study.turns if turn.options}
    lacking = tuple(
        Turn(
            question=question.question,
            answer="",
            task=Task.CONTEXT,
            options=question.options,
            topic=question.topic,
        )
        for question in protocol.questions
        if question.topic not in own
    )
    return replace(study, turns=(*study.turns, *lacking))
