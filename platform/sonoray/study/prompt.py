"""What stands in front of a question: the examination site, and what was said before.

The site comes first as `train.site_cue` asks for it. Training writes it there and the server looks
for it, so its form stands here alone.

Which turns of a study stand alone a source says by the topic: a turn of the topic `follow_up`
(`第二个多大？`) is not understood without the turns before it. Training, evaluation and the service
put in front of it what was said since the last question that stands alone. In training and
evaluation that is what the archive says and not what the model would have answered, as is the
custom for visual dialogue (A. Das et al., "Visual Dialog", CVPR 2017).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sonoray.errors import DataError

if TYPE_CHECKING:
    from sonoray.study.contract import Study, Turn

SITE_CUE = "检查部位：{site}。"

SITE_LABEL = "site"
"""Study label: the examined body site, in the language of the questions."""

FOLLOW_UP = "follow_up"
"""Topic of a turn whose question needs the turn before it."""

_PATTERN = re.compile(SITE_CUE.format(site=r"\s*[^。\s][^。]*"))


def with_site(question: str, site: str) -> str:
    """Put the site in front of a question."""
    return SITE_CUE.format(site=site) + question


def names_site(question: str) -> bool:
    """Whether a question begins with a site."""
    return _PATTERN.match(question) is not None


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
