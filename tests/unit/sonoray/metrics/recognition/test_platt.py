import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from sonoray.metrics.recognition.platt import fit_curve


def drawn(size, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=3, size=size)
    return scores, rng.uniform(size=size) < expit(0.7 * scores - 1)


def test_the_curve_is_that_of_a_logistic_regression_and_its_interval_holds_the_truth():
    scores, truth = drawn(4000)
    curve = fit_curve(scores, truth, range(4000))
    known = LogisticRegression(C=1e6).fit(scores[:, None], truth)
    assert curve.slope == pytest.approx(float(known.coef_[0, 0]), abs=0.01)
    assert curve.offset == pytest.approx(float(known.intercept_[0]), abs=0.01)
    at = np.array([-2.0, 0.0, 3.0])
    value, low, high = curve.probabilities(at)
    assert ((low < value) & (value < high)).all()
    assert ((low < expit(0.7 * at - 1)) & (expit(0.7 * at - 1) < high)).all()


def test_few_patients_give_a_wider_interval_than_as_many_studies_of_many():
    scores, truth = drawn(200)
    alone, grouped = (
        fit_curve(scores, truth, [n // size for n in range(200)]).probabilities(np.zeros(1))
        for size in (1, 20)
    )
    assert grouped[2] - grouped[1] > 0
    assert alone[0] == grouped[0]


def test_a_perfect_separation_has_a_finite_curve():
    scores = np.array([-1.0, -0.5, 0.5, 1.0])
    curve = fit_curve(scores, scores > 0, range(4))
    value, _, _ = curve.probabilities(scores)
    assert np.isfinite([curve.slope, curve.offset]).all()
    assert (np.diff(value) > 0).all()


def test_one_kind_of_study_has_no_curve():
    assert fit_curve(np.zeros(3), np.zeros(3, bool), range(3)) is None
