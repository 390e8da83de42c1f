"""Texts from the known truth: the questions of a study and their answers, in either language.

The wording is drawn independently of the truth, and the options of a closed question always stand
in the same order: no question can be answered better than by its most frequent answer without
looking at the images. What is drawn does not depend on the language, so that the studies of two
languages differ in their texts alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sonoray.phantom.anatomy import Organ
from sonoray.phantom.chinese import CHINESE
from sonoray.phantom.english import ENGLISH
from sonoray.phantom.lesion import Lesion
from sonoray.phantom.wording import Wording
from sonoray.study.contract import Task, Turn

LanguageName = Literal["zh", "en"]

WORDINGS: dict[LanguageName, Wording] = {"zh": CHINESE, "en": ENGLISH}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Query:
    """A question about a lesion."""

    topic: str
    answer: Callable[[Wording, Lesion], str]
    options: Callable[[Wording], tuple[str, ...]] = lambda words: ()


_LESION_QUERIES = (
    _Query(
        topic="echogenicity",
        answer=lambda words, lesion: words.echoes[lesion.echogenicity],
        options=lambda words: tuple(words.echoes.values()),
    ),
    _Query(
        topic="margin",
        answer=lambda words, lesion: words.margins[lesion.margin],
        options=lambda words: tuple(words.margins.values()),
    ),
    _Query(
        topic="calcification",
        answer=lambda words, lesion: words.presence[lesion.calcified],
        options=lambda words: tuple(words.presence.values()),
    ),
    _Query(
        topic="pathology",
        answer=lambda words, lesion: words.pathology[lesion.malignant],
        options=lambda words: tuple(words.pathology.values()),
    ),
    _Query(
        topic="side",
        answer=lambda words, lesion: words.sides[lesion.side],
        options=lambda words: tuple(words.sides.values()),
    ),
    _Query(topic="size", answer=lambda words, lesion: words.sizes[lesion.size_class]),
    _Query(topic="recommendation", answer=lambda words, lesion: words.advice[lesion.kind]),
)


def write_turns(
    rng: np.random.Generator,
    organ: Organ,
    lesion: Lesion | None,
    *,
    words: Wording,
    organs: tuple[Organ, ...],
    ask_finding: bool,
) -> tuple[Turn, ...]:
    """Write the questions and answers of a study.

    Args:
        rng: draws the wordings only.
        organ: what was scanned.
        lesion: what was found, None where nothing was.
        words: the language.
        organs: all organs that occur, the options of the organ question; one alone is not asked.
        ask_finding: whether to ask if there is a lesion at all.
    """

    def pick(topic: str) -> str:
        return words.questions[topic][int(rng.integers(2))]

    turns = [
        Turn(
            question=pick("report"),
            answer=words.report_text(organ, lesion, int(rng.integers(2))),
            task=Task.REPORT,
            topic="report",
        )
    ]
    if len(organs) > 1:
        turns.append(
            Turn(
                question=pick("organ"),
                answer=words.organs[organ],
                task=Task.CLOSED,
                topic="organ",
                options=tuple(words.organs[other] for other in organs),
            )
        )
    if ask_finding:
        turns.append(
            Turn(
                question=pick("finding"),
                answer=words.presence[lesion is not None],
                task=Task.CLOSED,
                topic="finding",
                options=tuple(words.presence.values()),
            )
        )
    if lesion is not None:
        for query in _LESION_QUERIES:
            options = query.options(words)
            turns.append(
                Turn(
                    question=pick(query.topic),
                    answer=query.answer(words, lesion),
                    task=Task.CLOSED if options else Task.OPEN,
                    topic=query.topic,
                    options=options,
                )
            )
    return tuple(turns)
