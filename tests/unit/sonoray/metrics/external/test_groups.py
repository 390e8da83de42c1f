import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray.metrics.external.groups import SMALL, UNKNOWN, metrics_by_group
from sonoray.metrics.resampling import mean_metric

QUICK = Bootstrap(num_resamples=1000)


def group(values, patients, scores, least_patients):
    return metrics_by_group(
        {"mean": mean_metric(np.array(scores, dtype=float))},
        values,
        patients,
        QUICK,
        least_patients=least_patients,
    )


def test_each_group_has_its_own_mean_and_few_patients_are_counted_together():
    values = ["a", "a", "b", "b", "b", "c", "", "d", ""]
    patients = ["1", "2", "3", "4", "4", "5", "6", "7", "8"]
    found = group(values, patients, [1, 0, 1, 1, 0, 0, 1, 1, 0], 2)
    assert [(each.value, each.num_questions, each.num_patients) for each in found] == [
        ("b", 3, 2),
        ("a", 2, 2),
        (SMALL, 2, 2),
        (UNKNOWN, 2, 2),
    ]
    means = [each.estimates["mean"].value for each in found]
    assert means == pytest.approx([2 / 3, 1 / 2, 1 / 2, 1 / 2])


def test_the_interval_is_over_the_groups_patients():
    values = ["a"] * 40 + ["b"] * 40
    patients = [*range(40), *[100 + number // 10 for number in range(40)]]
    scores = [number % 2 for number in range(40)] + [number // 10 % 2 for number in range(40)]
    many, few = (each.estimates["mean"] for each in group(values, patients, scores, 1))
    assert many.value == few.value == 0.5
    assert few.high - few.low > 2 * (many.high - many.low)
