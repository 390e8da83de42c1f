"""Probabilities that were made too sure become right again, and doubtful answers are left out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.metrics import AnswerRecord
from sonoray.metrics.external.temperature import LEAST_QUESTIONS, fit_temperature


def draw(sharpness: float, *, count: int = 4_000, options: int = 3, seed: int = 0):
    """Answers that are right as often as their probability says, with scores made sharper."""
    rng = np.random.default_rng(seed)
    names = [f"option-{number}" for number in range(options)]
    records = []
    for number in range(count):
        logits = rng.normal(size=options) * 2
        shares = np.exp(logits) / np.exp(logits).sum()
        truth = int(rng.choice(options, p=shares))
        scores = {n: float(v) for n, v in zip(names, logits * sharpness - 9, strict=True)}
        records.append(
            AnswerRecord(
                study_id=str(number),
                patient_key=str(number // 2),
                topic="t",
                truth=names[truth],
                answer=max(scores, key=scores.__getitem__),
                options=tuple(names),
                option_scores=scores,
            )
        )
    return records


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("options", [2, 5])
def test_the_temperature_undoes_how_sharp_the_scores_were_made(sharpness: float, options: int):
    fit = fit_temperature(draw(sharpness, options=options), max_error_rate=0.1)
    assert fit is not None
    assert fit.temperature == pytest.approx(sharpness, rel=0.06)
    assert fit.nll_after <= fit.nll_before
    assert fit.ece_after < 0.03
    if sharpness != 1.0:
        assert fit.ece_after < fit.ece_before / 2
    assert (fit.num_questions, fit.num_patients) == (4_000, 2_000)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), wanted=st.floats(0.0, 0.6))
def test_the_threshold_keeps_the_error_rate_and_no_lower_one_does(seed: int, wanted: float):
    records = draw(2.0, count=200, seed=seed)
    fit = fit_temperature(records, max_error_rate=wanted)
    assert fit is not None
    chances, rights = [], []
    for record in records:
        values = [score / fit.temperature for score in record.option_scores.values()]
        parts = [math.exp(value - max(values)) for value in values]
        chances.append(max(parts) / sum(parts))
        rights.append(record.answer == record.truth)
    chance, right = np.array(chances), np.array(rights)

    def rate(threshold: float) -> float:
        given_answers = chance >= threshold - 1e-9
        return float((~right[given_answers]).mean())

    if fit.coverage:
        assert rate(fit.abstain_below) == pytest.approx(fit.error_rate)
        assert fit.error_rate <= wanted
    lower = chance[chance < fit.abstain_below - 1e-9]
    assert all(rate(threshold) > wanted for threshold in lower)


def test_few_questions_fit_nothing():
    records = draw(1.0, count=LEAST_QUESTIONS)
    assert fit_temperature(records[1:], max_error_rate=0.1) is None
    assert fit_temperature(records, max_error_rate=0.1) is not None


def test_a_model_that_is_always_right_has_the_coldest_temperature():
    records = [record for record in draw(1.0) if record.answer == record.truth]
    fit = fit_temperature(records, max_error_rate=0.1)
    assert fit is not None
    assert fit.temperature == pytest.approx(0.05)
    assert (fit.error_rate, fit.coverage) == (0.0, 1.0)
