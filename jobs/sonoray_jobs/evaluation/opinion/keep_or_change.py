"""From scores to verdicts: which way of asking is believed, and what becomes of an answer.

Every way is tried on studies that are not suspect, with their own answer and another option: the
AUC of its scores, right statements against wrong ones, says what the way is worth. `auto` believes
the one with the highest AUC, of those whose interval lies above 0.5. Where none does, no opinion is
had of anything, and nothing is changed; a way that was asked for by name is followed all the same.

An opinion is the candidate with the highest score. Its confidence is the logistic function of how
far it lies above the next one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics import Bootstrap
from sonoray.metrics.class_rates import auc_metric
from sonoray.metrics.resampling import Estimate, estimate
from sonoray_jobs.evaluation.opinion.prompts import Way
from sonoray_jobs.road.config import Asking

KEEP, CHANGE, UNDECIDED, UNASKED = "keep", "change", "undecided", "unasked"
CHANCE = 0.5

Scores = Mapping[str, float]
"""By candidate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What is thought of one suspect answer."""

    study_id: str
    split: str
    given: str
    suspected: str
    """The option that the probabilities suggest."""
    margin: float
    """Its probability minus that of the answer."""
    suggested: str
    """The option that the model finds truest; empty where it was not asked."""
    confidence: float
    verdict: str
    """`keep`, `change`, `undecided`, or `unasked` where no call was left."""

    @property
    def answer(self) -> str:
        """The answer afterwards."""
        return self.suggested if self.verdict == CHANGE else self.given

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a way of asking is worth."""

    auc: Estimate | None
    """Right statements against wrong ones; None where all are of one kind."""
    means: Scores
    """By option, its mean score."""

    @property
    def tells(self) -> bool:
        """Whether it tells right from wrong."""
        return self.auc is not None and self.auc.low is not None and self.auc.low > CHANCE


def scores_of(
    way: Way, candidates: Sequence[str], replies: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Scores of the candidates from the replies to a study's prompts.

    A statement's score is its mean over exemplars; an option's of the question itself is its
    log-probability among all options. A candidate about which no prompt could be put has none.
    """
    if not any(replies):
        return {}
    if way == "options":
        values = np.array(list(replies[0].values()))
        total = float(np.logaddexp.reduce(values))
        return {option: replies[0][option] - total for option in candidates}
    found: dict[str, list[float]] = {}
    for reply in replies:
        for option, value in reply.items():
            found.setdefault(option, []).append(value)
    return {option: sum(own) / len(own) for option, own in found.items()}


def check_way(
    scores: Sequence[Scores], given: Sequence[str], patients: Sequence[str], bootstrap: Bootstrap,
    *, centred: bool,
) -> Checked:  # fmt: skip
    """Judge a way of asking.

    Args:
        scores: of each study that was drawn.
        given: its answer, which is believed.
        patients: of each.
        bootstrap: how the interval is made.
        centred: whether means are taken of each option; else they are 0.
    """
    of_option: dict[str, list[float]] = {}
    for own in scores:
        for option, value in own.items():
            of_option.setdefault(option, []).append(value)
    means = {
        option: sum(values) / len(values) if centred else 0.0
        for option, values in of_option.items()
    }
    values, right, owners = [], [], []
    for own, answer, patient in zip(scores, given, patients, strict=True):
        for option, value in own.items():
            values.append(value - means[option])
            right.append(int(option == answer))
            owners.append(patient)
    if len(set(right)) < 2:
        return Checked(auc=None, means=means)
    metric = auc_metric(np.array(values)[:, None], np.array(right))
    return Checked(auc=estimate(metric, owners, bootstrap), means=means)


def choose_way(checked: Mapping[Way, Checked], asking: Asking) -> Way | None:
    """The way that is believed; None where `auto` finds none that tells right from wrong."""
    if asking != "auto":
        return asking
    telling = [way for way, each in checked.items() if each.tells]
    return max(
        telling,
        key=lambda way: found.value if (found := checked[way].auc) else 0.0,
        default=None,
    )


def decide(scores: Scores, means: Scores, given: str, sure: float) -> tuple[str, float, str]:
    """The truest candidate, how sure that is, and the verdict.

    Args:
        scores: of the candidates.
        means: by option, what is subtracted; an option without one has the mean of all.
        given: the answer.
        sure: least confidence of a verdict.
    """
    usual = sum(means.values()) / len(means) if means else 0.0
    centred = {option: value - means.get(option, usual) for option, value in scores.items()}
    order = sorted(centred, key=lambda option: (-centred[option], option != given))
    if len(order) < 2:
        return given, CHANCE, UNDECIDED
    confidence = 1 / (1 + math.exp(-(centred[order[0]] - centred[order[1]])))
    if confidence < sure:
        return order[0], confidence, UNDECIDED
    return order[0], confidence, KEEP if order[0] == given else CHANGE
