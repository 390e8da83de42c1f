"""Encoding models on planted states: found where they are, not by the patient."""

import numpy as np
import pytest

from sonoray_jobs.evaluation.encoding.ridge import (
    correlation_metric,
    noise_ceiling,
    patient_folds,
    predict_left_out,
)


def score(predicted, truth):
    return float(correlation_metric(predicted, truth)(np.ones((1, len(truth))))[0])


def planted(num=200, channels=40, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((num, channels)) * rng.uniform(0.1, 50, channels) + 7
    signal = (states[:, 0] - 7) / states[:, 0].std()
    targets = np.stack([signal, signal + rng.standard_normal(num), rng.standard_normal(num)], 1)
    return states, targets, [f"p{number // 2}" for number in range(num)]


def test_what_states_hold_is_predicted_and_noise_is_not():
    states, targets, patients = planted()
    predicted, truth = predict_left_out(states, targets, patients)
    found = [score(predicted[:, column], truth[:, column]) for column in range(3)]
    assert found[0] > 0.95
    assert 0.55 < found[1] < 0.8  # half of it is noise: at most 0.71
    assert abs(found[2]) < 0.25


def test_a_target_is_predicted_alike_alone_and_beside_others():
    states, targets, patients = planted()
    together, _ = predict_left_out(states, targets, patients)
    alone, _ = predict_left_out(states, targets[:, 1:2], patients)
    assert together[:, 1:2] == pytest.approx(alone)


def test_no_prediction_has_seen_the_patient():
    """States that only name the patient: what is not left out would be known by heart."""
    rng = np.random.default_rng(0)
    patients = [f"p{number // 2}" for number in range(60)]
    states = np.repeat(np.eye(30), 2, axis=0)
    targets = np.repeat(rng.standard_normal(30), 2)[:, None]
    predicted, _ = predict_left_out(states, targets, patients)
    assert np.abs(predicted).max() < 1e-9  # the channel of a new patient was dead


def test_folds_keep_a_patient_together_and_are_even():
    patients = [f"p{number // 3}" for number in range(90)]
    folds = patient_folds(patients, 5, 0)
    assert all(len(set(folds[start : start + 3])) == 1 for start in range(0, 90, 3))
    assert np.bincount(folds).tolist() == [18] * 5


def test_the_correlation_is_numpys_with_weights_as_repeats():
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((2, 12))
    metric = correlation_metric(one, other)
    weights = rng.integers(0, 4, (3, 12)).astype(float)
    for row, found in zip(weights, metric(weights), strict=True):
        times = row.astype(int)
        wanted = np.corrcoef(np.repeat(one, times), np.repeat(other, times))[0, 1]
        assert found == pytest.approx(wanted)
    assert correlation_metric(np.zeros(12), other)(weights).tolist() == [0, 0, 0]


def test_the_ceiling_is_the_root_of_the_reliability_of_means():
    measured = [[1, 3], [5, 7], [9, 11]]  # means 2, 6, 10: MSB 32, MSW 2
    assert noise_ceiling(measured) == pytest.approx(np.sqrt(30 / 32))
    assert noise_ceiling([[1, 1], [2, 2]]) == 1
    assert noise_ceiling([[1], [2, 3], [4]]) is None
    assert noise_ceiling([[0, 9], [1, 8], [2, 7]]) == 0
    assert noise_ceiling([[3, 3], [3, 3]]) == 0


def test_the_ceiling_is_what_the_truth_reaches():
    rng = np.random.default_rng(2)
    truth = rng.standard_normal(4000)
    measured = truth[:, None] + rng.standard_normal((4000, 3))
    reached = np.corrcoef(truth, measured.mean(axis=1))[0, 1]
    assert noise_ceiling(measured.tolist()) == pytest.approx(reached, abs=0.01)
