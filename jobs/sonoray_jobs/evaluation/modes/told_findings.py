"""The language model alone: findings in words, and a picture that shows nothing.

In front of a closed question stand the study's findings: its report, or, where it has none, its
other closed questions with their true answers. The picture is the average one, whose features are
all 0, because the towers' channels are standardised: the decoder reads a prompt of the form that it
knows, and all that it can learn of the patient is in the words. Whether the words name the true
option is kept: where they do the question is one of reading, where not one of knowledge.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_ultra.batch import StudyFeatures
from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from sonoray.study.contract import Study, Task, Turn
from sonoray.study.prompt import split_site
from sonoray_jobs.evaluation.answer import AnswerActor
from sonoray_jobs.towers.feature_source import FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig

_ZH, _EN = "超声所见：{told}", "Findings: {told} "


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A study whose closed questions are told the findings."""

    study: Study
    names_truth: tuple[bool, ...]
    """Of each question, whether the words name its true option."""


def tell(study: Study, topics: Collection[str] = ()) -> Told | None:
    """Put a study's findings in front of its closed questions; None where it says none.

    Of several questions of a topic the first counts. The site, where it is named, stays first.

    Args:
        study: with all its turns, also those that are not asked.
        topics: what is asked about; empty takes all.
    """
    asked: dict[str, tuple[Turn, str]] = {}
    for turn in study.turns:
        is_asked = turn.task is Task.CLOSED and (not topics or turn.topic in topics)
        if is_asked and turn.topic not in asked and (told := _words(study, turn)):
            asked[turn.topic] = (turn, told)
    if not asked:
        return None
    turns = tuple(_told(turn, told) for turn, told in asked.values())
    return Told(
        study=replace(
            study,
            images=tuple(replace(image, labels={}) for image in study.images[:1]),
            turns=turns,
        ),
        names_truth=tuple(turn.answer in told for turn, told in asked.values()),
    )


def _told(turn: Turn, told: str) -> Turn:
    site, question = split_site(turn.question)
    form = _EN if question.isascii() else _ZH
    return replace(turn, question=site + form.format(told=told) + question)


def _words(study: Study, asked: Turn) -> str:
    for turn in study.turns:
        if turn.task is Task.REPORT and turn.answer:
            return turn.answer
    others = [
        turn for turn in study.turns if turn.options and turn.answer and turn.topic != asked.topic
    ]
    return "".join(map(_sentence, others))


def _sentence(turn: Turn) -> str:
    _, question = split_site(turn.question)
    return f"{question}{turn.answer}{'. ' if question.isascii() else '。'}"


class ToldActor(AnswerActor):
    """A model in one process: studies that are told their findings in, answers out."""

    def __init__(
        self,
        load: Callable[[], tuple[LlavaUltra, Language]],
        settings: "EvaluateConfig",
        features: FeatureSource,
        device: str,
    ) -> None:
        """Load the model; arguments as of `AnswerActor`."""
        super().__init__(load, settings, features, device, answers_freely=False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer all questions of a batch of study rows; one prediction row per question."""
        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        rows = [row for rows in self.answer(studies, self._blanks(studies)) for row in rows]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _blanks(self, studies: Sequence[Study]) -> list[StudyFeatures]:
        """The average picture, once for each study."""
        blank = {
            tower: np.zeros((1, *store.shape), np.float32)
            for tower, store in self._features.source.stores.items()
        }
        return [StudyFeatures.of_towers(blank) for _ in studies]
