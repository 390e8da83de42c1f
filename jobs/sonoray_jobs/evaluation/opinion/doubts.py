"""What the model is asked of whom: candidates, prompts, the check, and the cap on calls.

A suspect answer is held against the option that the probabilities suggest and, where more
candidates are wanted, those that the transition matrix takes most often for this answer. An
exemplar of an option has it as answer; a wrong one has another candidate.

Axes: S studies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sonoray.errors import DataError
from sonoray_jobs.evaluation.opinion.library import Library
from sonoray_jobs.evaluation.opinion.prompts import WAYS, Prompt, Way
from sonoray_jobs.evaluation.probing.linear import Asked
from sonoray_jobs.road.config import OpinionConfig

LEAST_CHECK = 8
"""Fewer studies cannot tell a way of asking from chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """A study whose answer is held against other options."""

    place: int
    """Of the study among all."""
    candidates: tuple[str, ...]
    """The answer first."""
    suggested: str = ""
    """By the probabilities; empty of a study that is not suspect."""
    margin: float = 0.0
    """Probability of the suggested option minus that of the answer."""


def candidates_of(
    given: str, suggested: str, options: Sequence[str], taken_for: Mapping[str, float], most: int
) -> tuple[str, ...]:
    """The options that the model is asked about, the answer first.

    Args:
        given: the answer.
        suggested: by the probabilities; empty for none.
        options: of the question.
        taken_for: the answer's row of the transition matrix, by option.
        most: how many.
    """
    others = [option for option in options if option not in (given, suggested)]
    others.sort(key=lambda option: -taken_for.get(option, -1.0))
    found = [given, *([suggested] if suggested else []), *others]
    return tuple(found[:most])


def prompts_of(way: Way, doubt: Doubt, library: Library, exemplars: int) -> list[Prompt]:
    """The calls that one doubt takes."""
    if way == "options":
        return [Prompt(way=way)]
    if way == "statement":
        return [Prompt(way=way, option=option) for option in doubt.candidates]
    prompts = []
    for option in doubt.candidates:
        others = [each for each in doubt.candidates if each != option]
        pairs = zip(
            library.nearest(doubt.place, [option], exemplars),
            library.nearest(doubt.place, others, exemplars),
            strict=False,
        )
        prompts += [Prompt(way=way, option=option, exemplars=pair) for pair in pairs]
    return prompts


def draw_check(
    asked: Asked, may: npt.NDArray[np.bool_], num: int, seed: int
) -> npt.NDArray[np.int64]:
    """Draw studies for the check, as many of each answer as can be: places in rising order.

    Args:
        asked: all studies.
        may: (S,) whether a study may be drawn.
        num: how many.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    answers = asked.truths
    left = [
        rng.permutation(np.flatnonzero(may & (answers == answer))).tolist()
        for answer in np.unique(answers)
    ]
    drawn: list[int] = []
    while any(left) and len(drawn) < num:
        for own in left:
            if own and len(drawn) < num:
                drawn.append(own.pop())
    return np.array(sorted(drawn), dtype=np.int64)


def ways_of(settings: OpinionConfig) -> Sequence[Way]:
    """The ways of asking that are checked."""
    return WAYS if settings.asking == "auto" else (settings.asking,)


def check_size(settings: OpinionConfig, ways: Sequence[Way], left: int) -> int:
    """How many studies the check has: half of the calls at most are its own.

    Args:
        settings: what is wanted.
        ways: that are checked.
        left: calls.

    Raises:
        DataError: they do not suffice for the fewest.
    """
    cost = {
        "exemplars": settings.candidates * settings.exemplars,
        "statement": settings.candidates,
        "options": 1,
    }
    each = sum(cost[way] for way in ways)
    num = min(settings.check, left // 2 // each)
    if num < LEAST_CHECK:
        raise DataError(
            f"opinion.calls leaves {left} calls, and the check of {', '.join(ways)} takes {each} a "
            f"study: {LEAST_CHECK} studies at least, of half of the calls; raise opinion.calls to "
            f"{settings.calls - left + 2 * each * LEAST_CHECK} or more"
        )
    return num


def within(prompts: Sequence[Sequence[Prompt]], left: int) -> int:
    """How many doubts, in their order, can be asked about with so many calls."""
    total = 0
    for number, own in enumerate(prompts):
        total += len(own)
        if total > left:
            return number
    return len(prompts)
