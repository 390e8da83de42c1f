"""Levels of questions, from what kind of picture it is to what the patient has.

FunBench (arXiv 2503.00901) has four. Which topic is of which level is ours; `modes.levels` adds
topics or moves them.
"""

from collections.abc import Mapping
from typing import get_args

from sonoray_jobs.road.config import Level

LEVELS: tuple[Level, ...] = get_args(Level)

TOPICS: Mapping[str, Level] = {
    "modality": "modality",
    "view": "anatomy",
    "plane": "anatomy",
    "organ": "anatomy",
    "site": "anatomy",
    "side": "anatomy",
    "pathology": "diagnosis",
    "diagnosis": "diagnosis",
    "class": "diagnosis",
    "histology": "diagnosis",
    "birads": "diagnosis",
    "tirads": "diagnosis",
}
"""Of topics that sources of this project ask about; any other one is of the lesion."""


def level_of(topic: str, others: Mapping[str, Level]) -> Level:
    """The level of a topic.

    Args:
        topic: any.
        others: levels of topics that have another one, or none here.
    """
    return others.get(topic) or TOPICS.get(topic.lower().replace("-", ""), "lesion")
