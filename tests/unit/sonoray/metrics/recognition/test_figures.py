import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from sonoray.metrics import Bootstrap
from sonoray.metrics.recognition.binary_rates import (
    accuracy_at,
    average_precision,
    best_f1_threshold,
    f1_at,
)
from sonoray.metrics.recognition.figures import Scored, mean_over_seeds, recognition_figures


def drawn(seed=0, size=200):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(size=(size, 3)) < [0.3, 0.5, 0.1]
    scores = np.round(rng.normal(size=(size, 3)) + truth, 1)  # ties among them
    return Scored(scores=scores, truth=truth, patients=[n // 2 for n in range(size)])


def test_figures_are_those_of_scikit_learn():
    found = drawn()
    ones = np.ones((1, len(found.truth)))
    for scores, truth in zip(found.scores.T, found.truth.T, strict=True):
        value = average_precision(scores, truth)(ones)[0]
        assert value == pytest.approx(average_precision_score(truth, scores))
        best = best_f1_threshold(scores, truth)
        grid = [f1_score(truth, scores >= level) for level in np.unique(scores)]
        assert f1_at(scores, truth, best)(ones)[0] == pytest.approx(max(grid))
        right = np.mean((scores >= best) == truth)
        assert accuracy_at(scores, truth, best)(ones)[0] == pytest.approx(right)


def test_a_weight_of_two_is_a_study_twice():
    found = drawn()
    scores, truth = found.scores[:, 0], found.truth[:, 0]
    weights = np.random.default_rng(1).integers(0, 3, len(truth))
    again = np.repeat(np.arange(len(truth)), weights)
    ones = np.ones((1, len(again)))
    for make in (average_precision, lambda s, t: f1_at(s, t, 0.5)):
        weighted = make(scores, truth)(weights[None].astype(float))[0]
        assert weighted == pytest.approx(make(scores[again], truth[again])(ones)[0])


def test_both_protocols_and_what_needs_no_model():
    tested, validation = drawn(0), drawn(1, 80)
    figures = recognition_figures("abc", tested, validation, Bootstrap(num_resamples=1000))
    first = figures.classes[0]
    auc = [roc_auc_score(t, s) for s, t in zip(tested.scores.T, tested.truth.T, strict=True)]
    assert first.auc.value == pytest.approx(auc[0])
    assert first.auc.low < auc[0] < first.auc.high
    assert figures.macro["auc"].value == pytest.approx(np.mean(auc))
    level = best_f1_threshold(validation.scores[:, 0], validation.truth[:, 0])
    assert first.threshold == level
    assert first.f1.value == pytest.approx(
        f1_score(tested.truth[:, 0], tested.scores[:, 0] >= level)
    )
    assert first.best_f1 >= first.f1.value
    assert first.all_positive_f1 == pytest.approx(
        f1_score(tested.truth[:, 0], np.ones(len(tested.truth)))
    )
    assert first.constant_accuracy == pytest.approx(1 - first.prevalence)
    assert figures.num_patients == 100


def test_a_class_without_a_positive_has_no_figures_and_no_part_in_means():
    tested = drawn()
    truth = tested.truth.copy()
    truth[:, 2] = False
    lacking = Scored(scores=tested.scores, truth=truth, patients=tested.patients)
    figures = recognition_figures("abc", lacking, None, Bootstrap(num_resamples=1000))
    last = figures.classes[2]
    assert (last.auc, last.auprc, last.best_f1, last.f1) == (None, None, None, None)
    values = [each.auc.value for each in figures.classes[:2]]
    assert figures.macro["auc"].value == pytest.approx(np.mean(values))
    assert figures.macro["f1"] is None


def test_the_mean_over_seeds_is_drawn_over_patients_and_seeds():
    found, bootstrap = drawn(), Bootstrap(num_resamples=1000)

    def mean(*scores, classes=(0, 1)):
        return mean_over_seeds(scores, found.truth, classes, found.patients, bootstrap)

    one, other = found.scores, found.scores + 2 * np.random.default_rng(3).normal(size=(200, 3))
    aucs = [roc_auc_score(found.truth[:, n], each[:, n]) for each in (one, other) for n in (0, 1)]
    both = mean(one, other)
    assert both.value == pytest.approx(np.mean(aucs))
    alone = mean(one)
    assert alone.value == pytest.approx(np.mean(aucs[:2]))
    assert mean(one, one).high - mean(one, one).low == pytest.approx(alone.high - alone.low)
    assert both.high - both.low > alone.high - alone.low  # seeds that differ
