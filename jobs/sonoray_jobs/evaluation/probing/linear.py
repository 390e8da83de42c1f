"""A logistic regression on pooled images, judged by study: the linear probe.

Its penalty is the one with the best log-likelihood on left-out training patients
(`answer_folds`). A study's log-probabilities are the mean of its images', as a product of
experts has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray.study.contract import Turn
from sonoray_jobs.evaluation.probing.answer_folds import answer_folds, log_likelihood
from sonoray_jobs.evaluation.probing.pooling import PooledStudy

PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths (C) to choose from."""
_ITERATIONS = 500
_UNSEEN = -30.0
"""Log-probability of an option that no training study has."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One closed question of some studies, and the images to answer it from."""

    studies: Sequence[PooledStudy]
    turns: Sequence[Turn]
    """Of each study the question."""
    features: npt.NDArray[np.float32]
    """(N, C) of all images."""
    owner: npt.NDArray[np.int64]
    """(N,) place of each image's study."""

    @property
    def truths(self) -> npt.NDArray[np.str_]:
        """The true answer of each study."""
        return np.array([turn.answer for turn in self.turns])

    @property
    def patients(self) -> npt.NDArray[np.str_]:
        """The patient of each study."""
        return np.array([each.study.patient_key for each in self.studies])

    def part(self, places: npt.NDArray[np.int64]) -> "Asked":
        """Some of the studies (P,), by their places in rising order, with their images."""
        inside = np.isin(self.owner, places)
        return Asked(
            studies=[self.studies[place] for place in places],
            turns=[self.turns[place] for place in places],
            features=self.features[inside],
            owner=np.searchsorted(places, self.owner[inside]),
        )

    def with_answers(self, answers: Sequence[str]) -> "Asked":
        """The same studies with other answers, one for each."""
        turns = [
            replace(turn, answer=answer) for turn, answer in zip(self.turns, answers, strict=True)
        ]
        return replace(self, turns=turns)


def asked_of(studies: Sequence[PooledStudy], topic: str, towers: Sequence[str]) -> Asked | None:
    """The studies that are asked a closed question; None where none is.

    Args:
        studies: any.
        topic: of the question; the first one of a study counts.
        towers: whose features are put behind each other.
    """
    chosen = []
    for each in studies:
        turns = [turn for turn in each.study.turns if turn.topic == topic and turn.options]
        if turns:
            chosen.append((each, turns[0]))
    if not chosen:
        return None
    counts = [len(each.towers[towers[0]]) for each, _ in chosen]
    return Asked(
        studies=[each for each, _ in chosen],
        turns=[turn for _, turn in chosen],
        features=np.concatenate(
            [np.concatenate([each.towers[tower] for tower in towers], axis=1) for each, _ in chosen]
        ),
        owner=np.repeat(np.arange(len(chosen)), counts),
    )


class Probe:
    """A fitted probe."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - scikit-learn's pipeline
        self._model = model
        self.options = [str(each) for each in model.classes_]

    def log_probabilities(self, asked: Asked) -> Floats:
        """(S, O) of each study and option, in the order of `options`."""
        logs = self._model.predict_log_proba(asked.features)
        counts = np.bincount(asked.owner)
        sums = np.stack([np.bincount(asked.owner, column) for column in logs.T], axis=1)
        mean = sums / counts[:, None]
        return np.asarray(mean - np.logaddexp.reduce(mean, axis=1, keepdims=True))

    def scores(self, asked: Asked) -> list[dict[str, float]]:
        """Log-probability of each option of each study's question."""
        known = [
            dict(zip(self.options, map(float, row), strict=True))
            for row in self.log_probabilities(asked)
        ]
        return [
            {option: each.get(option, _UNSEEN) for option in turn.options}
            for each, turn in zip(known, asked.turns, strict=True)
        ]


def fit(asked: Asked, seed: int = 0) -> Probe | None:
    """Fit a probe, its penalty by cross-validation over patients.

    Args:
        asked: training studies.
        seed: of the folds.

    Returns:
        None where there are fewer than two answers, or one of them has too few patients.
    """
    from sklearn.model_selection import GridSearchCV

    truths, patients = asked.truths[asked.owner], asked.patients[asked.owner]
    folds = answer_folds(truths, patients, seed)
    if not folds:
        return None
    search = GridSearchCV(
        _pipeline(),
        {"logisticregression__C": PENALTIES},
        scoring=log_likelihood(truths),
        cv=folds,
    )
    return Probe(search.fit(asked.features, truths).best_estimator_)


def left_out(asked: Asked, seed: int = 0) -> tuple[list[str], Floats] | None:
    """Probabilities of each study's answers by probes that did not see its patient.

    Returns:
        The options, and (S, O) probabilities; None where `fit` returns None.
    """
    whole = fit(asked, seed)
    if whole is None:
        return None
    penalty = whole._model.named_steps["logisticregression"].C
    truths, patients = asked.truths[asked.owner], asked.patients[asked.owner]
    found = np.full((len(asked.studies), len(whole.options)), np.nan)
    for train, test in answer_folds(truths, patients, seed):
        part = Probe(_pipeline(penalty).fit(asked.features[train], truths[train]))
        places = np.unique(asked.owner[test])
        found[places] = np.exp(part.log_probabilities(asked.part(places)))
    return whole.options, found


def _pipeline(penalty: float = 1.0) -> Any:  # noqa: ANN401 - scikit-learn's pipeline
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=_ITERATIONS))
