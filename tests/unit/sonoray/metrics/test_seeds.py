import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray.metrics.resampling import estimate, mean_metric
from sonoray.metrics.seeds import estimate_mean

BOOTSTRAP = Bootstrap(num_resamples=4000, seed=3)


def test_one_seed_has_the_interval_of_an_evaluation():
    generator = np.random.default_rng(0)
    hits = (generator.random(300) < 0.7).astype(float)
    patients = [f"p{number}" for number in generator.integers(0, 60, 300)]
    ours = estimate_mean(hits[:, None], patients, BOOTSTRAP)
    theirs = estimate(mean_metric(hits), patients, BOOTSTRAP)
    assert ours.value == pytest.approx(theirs.value)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_seeds_that_disagree_widen_the_interval_and_seeds_that_agree_do_not():
    generator = np.random.default_rng(1)
    hits = (generator.random((400, 1)) < 0.5).astype(float)
    patients = [f"p{number}" for number in range(400)]
    agreeing = estimate_mean(np.repeat(hits, 3, axis=1), patients, BOOTSTRAP)
    alone = estimate_mean(hits, patients, BOOTSTRAP)
    assert agreeing.high - agreeing.low == pytest.approx(alone.high - alone.low, rel=0.05)
    apart = np.concatenate([hits, np.ones_like(hits), np.zeros_like(hits)], axis=1)
    assert estimate_mean(apart, patients, BOOTSTRAP).high > alone.high + 0.2


def test_one_patient_gives_no_interval():
    found = estimate_mean(np.array([[1.0], [0.0]]), ["p", "p"], BOOTSTRAP)
    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_scores_that_are_all_alike_have_an_exact_interval():
    patients = [f"p{number}" for number in range(30)]
    right = estimate_mean(np.ones((30, 3)), patients, BOOTSTRAP)
    assert (right.value, right.high) == (1.0, 1.0)
    assert right.low == pytest.approx(0.025 ** (1 / 30))
    same = estimate_mean(np.zeros((30, 3)), patients, BOOTSTRAP, lowest=-1.0)
    assert (-same.low, same.high) == pytest.approx((1 - 0.025 ** (1 / 30),) * 2)
