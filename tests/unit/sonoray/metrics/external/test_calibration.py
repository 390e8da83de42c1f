import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from sonoray.metrics import Bootstrap
from sonoray.metrics.external.calibration import (
    bin_numbers,
    calibration_metrics,
    events,
    measure_calibration,
)

QUICK = Bootstrap(num_resamples=1000)


def sample(seed, *, num_options, size=300):
    """Probabilities (N, C) and truths that are drawn from flatter ones: overconfidence."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(size, num_options)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    flat = np.exp(logits / 3) / np.exp(logits / 3).sum(axis=1, keepdims=True)
    truth = np.array([generator.choice(num_options, p=row) for row in flat])
    return probabilities, truth


def test_four_answers_by_hand():
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9]])
    truth = np.array([0, 1, 1, 1])
    found = measure_calibration(probabilities, truth, ["a", "b", "c", "d"], QUICK)
    assert found.brier.value == pytest.approx((0.04 + 0.64 + 0.01 + 0.01) / 4)
    assert found.ece.value == pytest.approx((2 * abs(0.5 - 0.2) + 2 * abs(1 - 0.9)) / 4)
    assert found.mean_probability.value == pytest.approx(0.55)
    assert found.observed_share.value == pytest.approx(0.75)
    assert [(each.num_questions, each.mean_probability) for each in found.bins] == [
        (2, pytest.approx(0.2)),
        (2, pytest.approx(0.9)),
    ]
    assert [each.observed.value for each in found.bins] == [0.5, 1.0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_options", [2, 4])
def test_brier_score_and_diagram_equal_scikit_learn(seed, num_options):
    probabilities, truth = sample(seed, num_options=num_options)
    patients = list(range(len(truth)))
    found = measure_calibration(probabilities, truth, patients, QUICK)
    labels = list(range(num_options))
    told = probabilities[:, 1] if num_options == 2 else probabilities
    expected = brier_score_loss(truth, told, scale_by_half=True, labels=labels)
    assert found.brier.value == pytest.approx(expected, abs=1e-12)
    chance, happened = events(probabilities, truth)
    observed, predicted = calibration_curve(happened, chance, n_bins=10, strategy="uniform")
    assert [each.observed.value for each in found.bins] == pytest.approx(observed)
    assert [each.mean_probability for each in found.bins] == pytest.approx(predicted)
    sizes = np.array([each.num_questions for each in found.bins])
    assert found.ece.value == pytest.approx(sizes @ abs(observed - predicted) / sizes.sum())
    assert found.brier.low < found.brier.value < found.brier.high


def test_a_probability_on_an_edge_belongs_to_the_lower_bin():
    assert bin_numbers(np.array([0.0, 0.05, 0.5, 0.51, 1.0])).tolist() == [0, 0, 4, 5, 9]


def test_a_weight_counts_like_as_many_answers():
    probabilities, truth = sample(7, num_options=3, size=40)
    weights = np.random.default_rng(0).integers(0, 4, size=40)
    chosen = np.repeat(np.arange(40), weights)
    weighted = calibration_metrics(probabilities, truth)
    repeated = calibration_metrics(probabilities[chosen], truth[chosen])
    ones = np.ones((1, len(chosen)))
    for name, metric in weighted.items():
        assert metric(weights[None].astype(float)) == pytest.approx(repeated[name](ones))


def test_overconfidence_shows_and_a_patients_answers_widen_the_interval():
    probabilities, truth = sample(3, num_options=2, size=400)
    honest = np.random.default_rng(1).random(400) < probabilities[:, 1]
    apart = list(range(400))
    over = measure_calibration(probabilities, truth, apart, QUICK).ece.value
    assert over > 2 * measure_calibration(probabilities, honest.astype(int), apart, QUICK).ece.value
    order = np.argsort(truth)  # a patient's answers are alike
    probabilities, truth = probabilities[order], truth[order]
    widths = []
    for patients in (apart, [number // 8 for number in apart]):
        share = measure_calibration(probabilities, truth, patients, QUICK).observed_share
        widths.append(share.high - share.low)
    assert widths[1] > 2 * widths[0]
