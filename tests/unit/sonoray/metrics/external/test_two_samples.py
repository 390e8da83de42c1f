import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray.metrics.external.two_samples import independent_differences
from sonoray.metrics.resampling import mean_metric

BOOTSTRAP = Bootstrap(num_resamples=4000)


def metrics(scores):
    return {"mean": mean_metric(np.array(scores, dtype=float))}


def test_the_interval_is_that_of_two_independent_means():
    generator = np.random.default_rng(0)
    first, second = generator.random(300) < 0.8, generator.random(200) < 0.7
    found = independent_differences(
        metrics(first), list(range(300)), metrics(second), list(range(200)), BOOTSTRAP
    )["mean"]
    assert found.value == pytest.approx(second.mean() - first.mean())
    error = np.sqrt(first.var() / 300 + second.var() / 200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_a_sample_and_itself_differ_by_chance():
    """Drawn together they would not differ at all."""
    scores = np.arange(100) % 2
    found = independent_differences(
        metrics(scores), list(range(100)), metrics(scores), list(range(100)), BOOTSTRAP
    )["mean"]
    assert found.value == 0
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.5 / 100), rel=0.1)
    assert found.p_value > 0.5


def test_a_patients_answers_are_drawn_together():
    scores = [1.0] * 50 + [0.0] * 50
    apart, together = (
        independent_differences(metrics(scores), patients, metrics(scores), patients, BOOTSTRAP)[
            "mean"
        ]
        for patients in (list(range(100)), [number // 10 for number in range(100)])
    )
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_what_one_sample_leaves_undefined_or_has_one_patient_of_has_no_interval():
    undefined = {"mean": lambda weights: np.full(len(weights), np.nan)}
    both = [1, 2, 3]
    assert not independent_differences(metrics([1, 0, 1]), both, undefined, both, BOOTSTRAP)
    alone = independent_differences(metrics([1, 0]), [1, 1], metrics([1, 0]), [1, 2], BOOTSTRAP)
    assert (alone["mean"].value, alone["mean"].low, alone["mean"].p_value) == (0, None, None)
