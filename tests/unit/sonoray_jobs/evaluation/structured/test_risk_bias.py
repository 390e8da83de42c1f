"""Groups beside others, where a patient may have studies in both."""

import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray_jobs.evaluation.structured.risk_bias import Judged, judge_groups
from sonoray_jobs.road.risk_config import RiskConfig

BOOTSTRAP = Bootstrap(num_resamples=1000)


def judge(owner, side, missed, **settings):
    """Of positive studies alone: false negatives by side."""
    number = len(owner)
    judged = Judged(
        ids=[f"s{each}" for each in range(number)],
        patients=[f"p{each}" for each in owner],
        truth=np.ones(number, np.bool_),
        chance=np.where(missed, 0.2, 0.8),
        called=~np.array(missed),
    )
    found = judge_groups(judged, {"side": side}, RiskConfig(**settings), BOOTSTRAP)["side"]
    return {each["value"]: each for each in found}


def test_a_patient_with_both_sides_is_one_patient():
    """Each patient is missed on both sides or on none, so no draw tells the sides apart."""
    owner = np.repeat(np.arange(40), 2)
    found = judge(owner, ["left", "right"] * 40, owner % 2 == 0)
    for group in found.values():
        gap = group["apart"]["false_negatives"]
        assert (gap["first"], gap["second"], gap["value"]) == (0.5, 0.5, 0)
        assert (gap["low"], gap["high"]) == (0, 0)


def test_groups_of_different_patients_are_as_uncertain_as_two_samples():
    side = ["left"] * 100 + ["right"] * 100
    missed = np.arange(200) % 2 == 0
    missed[100:] = np.arange(100) % 5 == 0
    gap = judge(np.arange(200), side, missed)["left"]["apart"]["false_negatives"]
    assert gap["value"] == pytest.approx(0.3)
    width = 2 * 1.96 * np.sqrt(0.5 * 0.5 / 100 + 0.2 * 0.8 / 100)  # of two independent shares
    assert gap["high"] - gap["low"] == pytest.approx(width, rel=0.1)


def test_one_patient_is_held_against_nobody():
    owner = [0, 0, *range(1, 9)]
    found = judge(owner, ["left"] * 2 + ["right"] * 8, np.arange(10) < 2, least_patients=1)
    assert found["left"]["apart"] == found["right"]["apart"] == {}
