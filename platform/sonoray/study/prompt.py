"""The examination site in front of a question, as `train.site_cue` asks for it.

Training writes it there and the server looks for it, so its form stands here alone.
"""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from sonoray.errors import DataError

if TYPE_CHECKING:
    from sonoray.study.contract import Study

SITE_CUE = "检查部位：{site}。"

SITE_LABEL = "site"
"""Study label: the examined body site, in the language of the questions."""

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
