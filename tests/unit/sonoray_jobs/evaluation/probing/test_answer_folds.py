"""Folds over patients: what learns has all answers, what is judged may not."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sonoray_jobs.evaluation.probing.answer_folds import answer_folds, log_likelihood


def studies(*patients):
    """Truth and owner of studies, from (number of studies, number of positive ones) by patient."""
    truth = [number < ones for total, ones in patients for number in range(total)]
    owner = [f"p{place}" for place, (total, _) in enumerate(patients) for _ in range(total)]
    return np.array(truth), np.array(owner)


@pytest.mark.parametrize(
    ("patients", "number"),
    [
        ([(1, 0), (1, 1)] * 10, 5),
        ([(1, 0)] * 9 + [(1, 1)] * 3, 3),
        ([(2, 2), (20, 0), (3, 1), (2, 2), (2, 1)], 2),  # one of three would learn one answer
        ([(1, 0), (3, 0), (3, 3), (3, 1)], 0),  # one of two would
        ([(5, 5), (4, 0)], 0),
        ([(1, 1)] * 9, 0),
    ],
)
def test_what_learns_has_every_answer_and_no_patient_of_the_judged(patients, number):
    truth, owner = studies(*patients)
    splits = answer_folds(truth, owner, 0)
    assert len(splits) == number
    for learned, judged in splits:
        assert set(truth[learned]) == {False, True}
        assert not set(owner[learned]) & set(owner[judged])
    places = [place for _, judged in splits for place in judged]
    assert sorted(places) == (list(range(len(truth))) if number else [])


@pytest.mark.parametrize("words", [np.array(["a", "b"]), np.array(["a", "b", "c"])])
def test_a_fold_that_lacks_an_answer_still_chooses(words):
    """By hand: the mean log-likelihood over folds, of which one has one answer."""
    rng = np.random.default_rng(0)
    truth = rng.integers(len(words), size=60)
    features = rng.normal(truth[:, None] * 2.0, 1.0, (60, 2))
    truths, alone = words[truth], np.flatnonzero(truth == 0)[:5]
    rest = np.setdiff1d(np.arange(60), alone)
    splits = [(rest, alone), (np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(30))]
    means = {}
    for penalty in (0.001, 1.0, 1e6):
        found = [
            log_loss(
                truths[judged],
                LogisticRegression(C=penalty, max_iter=1000)
                .fit(features[learned], truths[learned])
                .predict_proba(features[judged]),
                labels=words,
            )
            for learned, judged in splits
        ]
        means[penalty] = np.mean(found)
    search = GridSearchCV(
        LogisticRegression(max_iter=1000),
        {"C": list(means)},
        scoring=log_likelihood(truths),
        cv=splits,
    ).fit(features, truths)
    assert -search.cv_results_["mean_test_score"] == pytest.approx(list(means.values()))
    assert search.best_params_["C"] == min(means, key=means.get) != 0.001
