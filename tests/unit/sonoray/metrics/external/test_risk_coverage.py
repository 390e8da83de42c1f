import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray.metrics.external.risk_coverage import COVERAGES, _area, _Levels, _risk, risk_coverage

QUICK = Bootstrap(num_resamples=1000)


def measure(confidence, wrong, patients=None):
    found = risk_coverage(
        np.array(confidence, dtype=float),
        np.array(wrong, dtype=bool),
        patients or list(range(len(confidence))),
        QUICK,
    )
    return found.area.value, {point.coverage: point.risk.value for point in found.points}


def test_four_answers_by_hand():
    area, risks = measure([0.6, 0.9, 0.7, 0.8], [1, 0, 1, 0])
    assert area == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert risks[1.0] == pytest.approx(0.5)
    assert risks[0.5] == 0
    assert risks[0.6] == pytest.approx(0.4 / 2.4)  # 2.4 answers, 0.4 of the third


def test_equally_sure_answers_stand_in_no_order():
    area, risks = measure([0.7] * 6, [1, 0, 0, 0, 0, 1])
    assert area == pytest.approx(1 / 3)
    assert list(risks) == list(COVERAGES)
    assert list(risks.values()) == pytest.approx([1 / 3] * len(COVERAGES))


def test_the_area_is_that_of_the_definition():
    generator = np.random.default_rng(0)
    confidence, wrong = generator.random(60), generator.random(60) < 0.4
    sorted_wrong = wrong[np.argsort(-confidence)]
    expected = np.mean(np.cumsum(sorted_wrong) / np.arange(1, 61))
    assert measure(confidence, wrong)[0] == pytest.approx(expected)


def test_a_weight_counts_like_as_many_answers():
    generator = np.random.default_rng(1)
    confidence, wrong = generator.integers(0, 20, 50) / 20, generator.random(50) < 0.4
    weights = generator.integers(0, 4, size=50)
    chosen = np.repeat(np.arange(50), weights)
    once, repeated = _Levels(confidence, wrong), _Levels(confidence[chosen], wrong[chosen])
    ones = np.ones((1, len(chosen)))
    pairs = [(_area(once), _area(repeated))]
    pairs += [(_risk(once, coverage), _risk(repeated, coverage)) for coverage in COVERAGES]
    for weighted, plain in pairs:
        assert weighted(weights[None].astype(float)) == pytest.approx(plain(ones))


def test_intervals_hold_the_estimates_and_sure_answers_are_better():
    generator = np.random.default_rng(2)
    confidence = generator.random(300)
    wrong = generator.random(300) > 0.5 + confidence / 2
    found = risk_coverage(confidence, wrong, [number // 3 for number in range(300)], QUICK)
    whole, *_, surest = found.points
    assert surest.risk.value < found.area.value < whole.risk.value
    for point in found.points:
        assert point.risk.low <= point.risk.value <= point.risk.high
