"""How many replicas are wanted for the work that they tell."""

from types import SimpleNamespace
from typing import Any

import pytest

from sonoray_serve.schedule.autoscale import BUSY, WORK, replicas_for_work


def wanted(told: dict[str, float] | None, target: int = 2) -> float:
    metrics = None if told is None else {WORK: told}
    context: Any = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=target)
    return replicas_for_work(context)[0]


@pytest.mark.parametrize(
    ("told", "replicas"),
    [
        ({"a": 0.0}, 0.0),
        ({"a": BUSY}, 1.0),
        ({"a": 2.1}, 3.0),
        ({"a": 0.35, "b": 0.35, "c": 0.7}, 2.0),
    ],
)
def test_as_many_replicas_are_wanted_as_are_busy_with_the_work(
    told: dict[str, float], replicas: float
):
    assert wanted(told) == pytest.approx(replicas)


@pytest.mark.parametrize("told", [None, {}])
def test_replicas_stay_as_they_are_before_any_has_told(told: dict[str, float] | None):
    assert wanted(told, target=3) == 3.0
