"""Probabilities that hold: one temperature for all closed questions, and when to abstain.

A model that was trained on likelihoods is surer than it is right. Dividing its log-likelihoods by
one number before the softmax (C. Guo et al., "On calibration of modern neural networks", ICML 2017)
changes no answer and needs few questions. It is fitted on the validation split, which has taken no
part in the training and is not what a model is judged by, and is exported with the model.

The threshold says below which probability the likeliest option is no answer: the lowest one at
which the answers that are left are wrong at most as often as was asked for, on the same split. With
few questions that share is a rough one, so the record says of how many it is.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray.metrics.answers import AnswerRecord
from sonoray.metrics.external.calibration import ece_metric
from sonoray.metrics.resampling import Floats

Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LEAST_QUESTIONS = 30
"""Closed questions below which nothing is fitted: of fewer, chance decides."""

_COLDEST, _HOTTEST = 0.05, 100.0
"""Bounds of the temperature; a model that is always right has none of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TemperatureFit:
    """How a model's likelihoods become probabilities, and what they are worth."""

    temperature: float
    num_questions: int
    num_patients: int
    nll_before: float
    """Mean negative log-probability of the true option at temperature 1."""
    nll_after: float
    ece_before: float
    """Expected calibration error of the likeliest option's probability, at temperature 1."""
    ece_after: float
    abstain_below: float
    """Probability below which the likeliest option is no answer."""
    error_rate: float
    """Share of wrong answers at or above it; 0 where there is none."""
    coverage: float
    """Share of the questions that is answered."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def fit_temperature(
    records: Iterable[AnswerRecord], *, max_error_rate: float
) -> TemperatureFit | None:
    """Fit the temperature to the closed questions of a split, and choose the threshold.

    Args:
        records: of all questions; those without scored options are left out.
        max_error_rate: the share of wrong answers that is wanted among those that are given.

    Returns:
        What was found; None where fewer than `LEAST_QUESTIONS` are closed.
    """
    scored = [record for record in records if record.truth in record.option_scores]
    if len(scored) < LEAST_QUESTIONS:
        return None
    scores, true = _matrix(scored)
    temperature = _fit(scores, true)
    before, after = _probabilities(scores, 1.0), _probabilities(scores, temperature)
    is_right = scores.argmax(axis=1) == true
    threshold, error_rate, coverage = _threshold(after.max(axis=1), is_right, max_error_rate)
    return TemperatureFit(
        temperature=temperature,
        num_questions=len(scored),
        num_patients=len({record.patient_key for record in scored}),
        nll_before=_nll(before, true),
        nll_after=_nll(after, true),
        ece_before=_ece(before, is_right),
        ece_after=_ece(after, is_right),
        abstain_below=threshold,
        error_rate=error_rate,
        coverage=coverage,
    )


def _matrix(records: list[AnswerRecord]) -> tuple[Floats, Places]:
    """Scores (N, C), -inf where a question has fewer options, and the true option (N,) of each."""
    most = max(len(record.option_scores) for record in records)
    scores = np.full((len(records), most), -np.inf)
    true = np.zeros(len(records), dtype=np.int64)
    for row, record in enumerate(records):
        values = list(record.option_scores.values())
        scores[row, : len(values)] = values
        true[row] = list(record.option_scores).index(record.truth)
    return scores, true


def _probabilities(scores: Floats, temperature: float) -> Floats:
    shifted = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _fit(scores: Floats, true: Places) -> float:
    """The temperature of the largest likelihood: its slope by 1 / temperature only grows."""
    best = scores.max(axis=1, keepdims=True)
    known = np.where(np.isfinite(scores), scores - best, 0.0)
    wanted = known[np.arange(len(true)), true]

    def slope(inverse: float) -> float:
        expected = (_probabilities(scores, 1 / inverse) * known).sum(axis=1)
        return float((expected - wanted).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(low) >= 0:
        return _HOTTEST
    if slope(high) <= 0:
        return _COLDEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def _nll(probabilities: Floats, true: Places) -> float:
    chosen = probabilities[np.arange(len(true)), true]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def _ece(probabilities: Floats, is_right: Flags) -> float:
    metric = ece_metric(probabilities.max(axis=1), is_right)
    return float(metric(np.ones((1, len(is_right))))[0])


def _threshold(
    chance: Floats, is_right: Flags, max_error_rate: float
) -> tuple[float, float, float]:
    """The lowest threshold that keeps the error rate, the rate there, and the share answered."""
    order = np.argsort(-chance, kind="stable")
    sorted_chance, wrong = chance[order], np.cumsum(~is_right[order])
    rates = wrong / np.arange(1, len(order) + 1)
    # answers of equal probability are given together or not at all
    ends = np.append(sorted_chance[1:] != sorted_chance[:-1], True)
    kept = np.flatnonzero(ends & (rates <= max_error_rate))
    if not len(kept):
        return 1.0, 0.0, 0.0
    last = int(kept[-1])
    return float(sorted_chance[last]), float(rates[last]), (last + 1) / len(order)
