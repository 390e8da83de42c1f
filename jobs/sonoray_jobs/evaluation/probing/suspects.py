"""Answers in the dataset that the features of other patients contradict.

Confident learning (C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty
in Dataset Labels", JAIR 70, 2021): an option's threshold is its mean probability over the studies
that have it as answer. A study counts as confidently of the option that is likeliest of those whose
thresholds it reaches. Where that is not its answer, the answer is suspect. The probabilities come
from probes that did not see the patient, so that no answer speaks for itself.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray_jobs.evaluation.probing.linear import Asked, left_out


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """An answer that somebody should look at."""

    study_id: str
    split: str
    topic: str
    answer: str
    suggested: str
    margin: float
    """Probability of the suggested option minus that of the answer."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def find_suspects(asked: Asked, seed: int = 0) -> list[Suspect]:
    """The suspect answers of one question, the clearest first.

    Args:
        asked: studies of all splits.
        seed: of the folds.
    """
    found = left_out(asked, seed)
    if found is None:
        return []
    options, probabilities = found
    given = np.array([options.index(answer) for answer in asked.truths])
    confident = confident_options(probabilities, given)
    suspects = [
        Suspect(
            study_id=asked.studies[place].study.study_id,
            split=asked.studies[place].study.split,
            topic=asked.turns[place].topic,
            answer=options[given[place]],
            suggested=options[option],
            margin=float(probabilities[place, option] - probabilities[place, given[place]]),
        )
        for place, option in enumerate(confident)
        if option not in (-1, given[place])
    ]
    return sorted(suspects, key=lambda each: (-each.margin, each.study_id))


def confident_options(
    probabilities: npt.NDArray[np.float64], given: npt.NDArray[np.int64]
) -> Sequence[int]:
    """The option (S,) that each study is confidently of; -1 where it is of none.

    Args:
        probabilities: (S, O), of each option.
        given: (S,) the answers in the dataset; each option is one of them.
    """
    thresholds = transition_matrix(probabilities, given).diagonal()
    reached = np.asarray(probabilities >= thresholds)
    best = np.where(reached, probabilities, -1.0).argmax(axis=1)
    confident: list[int] = np.where(reached.any(axis=1), best, -1).tolist()
    return confident


def transition_matrix(
    probabilities: npt.NDArray[np.float64], given: npt.NDArray[np.int64], most: int = 0
) -> npt.NDArray[np.float64]:
    """Mean probabilities (O, O): a row for each answer in the dataset, a column for each option.

    NaN in the row of an answer that no study has.

    Args:
        probabilities: (S, O), of each option.
        given: (S,) the answers in the dataset; each option is one of them.
        most: studies of an answer that count, spread evenly over how probable it is in them; 0
            takes all.
    """
    rows = []
    for option in range(probabilities.shape[1]):
        own = probabilities[given == option]
        if most and len(own) > most:
            order = np.argsort(own[:, option], kind="stable")
            own = own[order[np.linspace(0, len(own) - 1, most).round().astype(np.int64)]]
        rows.append(own.mean(axis=0) if len(own) else np.full(own.shape[1], np.nan))
    return np.array(rows)
