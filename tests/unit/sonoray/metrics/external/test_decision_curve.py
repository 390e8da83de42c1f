import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from sonoray.metrics import Bootstrap
from sonoray.metrics.external.decision_curve import THRESHOLDS, decision_curve

QUICK = Bootstrap(num_resamples=1000)


def curve(probability, is_positive, patients=None):
    found = decision_curve(
        np.array(probability, dtype=float),
        np.array(is_positive, dtype=bool),
        patients or list(range(len(probability))),
        QUICK,
    )
    return {point.threshold: point for point in found}


def test_four_answers_by_hand():
    found = curve([0.9, 0.6, 0.4, 0.1], [1, 0, 1, 0])
    assert found[0.5].model.value == pytest.approx(1 / 4 - 1 / 4)
    assert found[0.5].treat_all == pytest.approx(0)
    assert found[0.25].model.value == pytest.approx(2 / 4 - 1 / 4 * (1 / 3))
    assert found[0.25].treat_all == pytest.approx(1 / 2 - 1 / 2 * (1 / 3))
    assert found[0.25].gain.value == pytest.approx(1 / 12)
    assert found[0.75].treat_all == pytest.approx(1 / 2 - 3 / 2)
    assert found[0.75].gain.value == pytest.approx(1 / 4)  # never treating is the better of both


def test_it_counts_as_scikit_learn_does():
    generator = np.random.default_rng(0)
    is_positive = generator.random(200) < 0.3
    probability = np.clip(generator.normal(0.3 + 0.3 * is_positive, 0.2), 0, 1)
    for threshold, point in curve(probability, is_positive).items():
        _, false, _, true = confusion_matrix(is_positive, probability >= threshold).ravel()
        expected = (true - false * threshold / (1 - threshold)) / 200
        assert point.model.value == pytest.approx(expected)
        assert point.model.low <= point.model.value <= point.model.high


def test_a_perfect_model_gains_what_there_is_to_find_and_a_blind_one_nothing():
    is_positive = np.arange(40) % 4 == 0
    for point in curve(is_positive * 1.0, is_positive).values():
        assert point.model.value == pytest.approx(0.25)
    blind = curve(np.full(40, 0.25), is_positive)
    assert list(blind) == list(THRESHOLDS)
    for point in blind.values():
        assert point.gain.value <= 1e-12
