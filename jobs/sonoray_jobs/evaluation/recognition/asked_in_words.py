"""The same classes asked in words, one question a class: what reading features is compared with.

A study is asked `图像中有无囊肿？` (有 or 无), in the language of the bank. Two scores
follow: what the free answer says, which is yes or no and therefore has one threshold; and the
probability of the option yes, which ranks studies. A class that is an absence is asked by what is
absent (`图像中有无病灶？`), and no counts for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llava_ultra.recognition.bank import ClassBank
from sonoray.errors import DataError
from sonoray.study.contract import Study, Task, Turn

_WORDINGS = {
    "zh": ("图像中有无{class}？", "有", "无"),
    "en": ("Is there {class} in the images?", "yes", "no"),
}
"""By language: question, and the answers that mean yes and no, as the phantom words them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WordScores:
    """What the answers say of each class (N, C), in the order of studies and classes."""

    said: npt.NDArray[np.float64]
    """1 where the free answer speaks for the class, else 0."""
    probability: npt.NDArray[np.float64]
    """Of the option that speaks for it."""


def asked_of_classes(studies: Sequence[Study], bank: ClassBank) -> list[Study]:
    """The studies with one closed question a class in place of their own.

    Raises:
        DataError: the bank is in a language without a wording.
    """
    if bank.language not in _WORDINGS:
        raise DataError(
            f"bank {bank.name!r} is in {bank.language!r}; classes are asked in words in "
            f"{', '.join(_WORDINGS)}"
        )
    question, yes, no = _WORDINGS[bank.language]
    asked = []
    for study in studies:
        own = set(bank.classes_of(study.labels))
        turns = tuple(
            Turn(
                question=question.replace("{class}", each.absence_of or each.name),
                answer=yes if (number in own) != bool(each.absence_of) else no,
                task=Task.CLOSED,
                options=(yes, no),
                topic=each.name,
            )
            for number, each in enumerate(bank.classes)
        )
        asked.append(replace(study, turns=turns))
    return asked


def word_scores(
    rows: Sequence[Mapping[str, Any]], studies: Sequence[Study], bank: ClassBank
) -> WordScores:
    """Scores of the answers to `asked_of_classes`.

    Args:
        rows: predictions, as `AnswerActor` gives them.
        studies: those that were asked.
        bank: the classes.
    """
    _, yes, no = _WORDINGS[bank.language]
    place = {study.study_id: row for row, study in enumerate(studies)}
    said = np.zeros((len(studies), len(bank.classes)))
    probability = np.zeros_like(said)
    for row in rows:
        number = bank.names.index(row["topic"])
        at = place[row["study_id"]], number
        wanted = no if bank.classes[number].absence_of else yes
        likelihoods = json.loads(row["option_scores"])
        powers = {option: np.exp(value) for option, value in likelihoods.items()}
        said[at] = float(row["generated"].strip().startswith(wanted))
        probability[at] = powers[wanted] / sum(powers.values())
    return WordScores(said=said, probability=probability)
