"""The answers that are doubted, and the true ones where they are known.

They are a dataset's own answers to one closed question, or, so that what a second opinion is worth
can be measured, worse ones beside them:

- *planted*: a share of the answers, drawn with a seed, becomes another option: any of the others
  (`symmetric`) or the next one (`pairwise`);
- *claimed* by texts (`sonoray_jobs.evaluation.opinion.claims`).

Of several questions of the topic about a study the first counts, as for a linear probe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sonoray.errors import ConfigError, DataError
from sonoray.study.contract import Study, Turn
from sonoray_jobs.road.config import NoiseKind

MOST_NOISE = 0.5
"""Above it most answers of two options would be wrong, and wrong ones the rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """Answers by study id."""

    given: Mapping[str, str]
    truth: Mapping[str, str] | None
    """None where it is not known."""
    origin: str
    """Where the given ones come from, for a person."""


def find_turn(study: Study, topic: str) -> Turn | None:
    """The first closed question of a topic."""
    return next((turn for turn in study.turns if turn.topic == topic and turn.options), None)


def own_answers(studies: Sequence[Study], topic: str) -> dict[str, str]:
    """The answers of the studies that are asked a closed question.

    Raises:
        DataError: none is, or all answers are the same.
    """
    found = {study.study_id: turn.answer for study in studies if (turn := find_turn(study, topic))}
    if not found:
        topics = sorted({turn.topic for study in studies for turn in study.turns if turn.options})
        named = ", ".join(topics) or "none"
        raise DataError(f"no closed question is asked about {topic!r}; name one of {named}")
    return require_several(found, topic)


def require_several(found: dict[str, str], topic: str) -> dict[str, str]:
    """The answers, where they are not all the same.

    Raises:
        DataError: they are.
    """
    values = sorted(set(found.values()))
    if len(values) < 2:
        raise DataError(
            f"all {len(found)} studies have the answer {values[0]!r} to {topic!r}: nothing "
            "contradicts it; name another topic"
        )
    return found


def check_rate(rate: float) -> None:
    """Refuse a share of planted errors that is none.

    Raises:
        ConfigError: it is not above 0 and at most `MOST_NOISE`.
    """
    if not 0 < rate <= MOST_NOISE:
        raise ConfigError(
            f"--plant {rate:g} is out of range: a share of the answers, above 0 and at most "
            f"{MOST_NOISE}, as 0.2"
        )


def plant(
    truth: Mapping[str, str],
    options: Mapping[str, Sequence[str]],
    rate: float,
    kind: NoiseKind,
    seed: int,
) -> dict[str, str]:
    """Plant errors: the same studies get the same ones whatever their order.

    Args:
        truth: answers by study id.
        options: of each study's question.
        rate: share of wrong answers; so many, to the nearest, are drawn.
        kind: which other option an answer becomes.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    ids = sorted(truth)
    drawn = rng.permutation(len(ids))[: round(rate * len(ids))]
    given = dict(truth)
    for place in drawn.tolist():
        study = ids[place]
        own = list(options[study])
        at = own.index(truth[study])
        step = 1 if kind == "pairwise" else int(rng.integers(1, len(own)))
        given[study] = own[(at + step) % len(own)]
    return given
