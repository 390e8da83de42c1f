"""Which way of asking is believed, and what becomes of an answer."""

import math

import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray.metrics.resampling import Estimate
from sonoray_jobs.evaluation.opinion.keep_or_change import (
    CHANGE,
    KEEP,
    UNDECIDED,
    Checked,
    Opinion,
    check_way,
    choose_way,
    decide,
    scores_of,
)

BOOTSTRAP = Bootstrap(num_resamples=1000)


def checked(value, low):
    return Checked(auc=Estimate(value=value, low=low, high=1.0), means={})


def test_a_score_is_the_mean_of_statements_or_the_share_of_an_option():
    replies = [{"a": 1.0}, {"a": 3.0}, {"b": -1.0}]
    assert scores_of("exemplars", ("a", "b"), replies) == {"a": 2.0, "b": -1.0}
    logs = {"a": math.log(1.0), "b": math.log(2.0), "c": math.log(5.0)}
    found = scores_of("options", ("a", "b"), [logs])
    assert {option: math.exp(value) for option, value in found.items()} == pytest.approx(
        {"a": 1 / 8, "b": 2 / 8}
    )
    assert scores_of("options", ("a", "b"), [{}]) == {}
    assert scores_of("statement", ("a", "b"), [{}, {"b": 1.0}]) == {"b": 1.0}


def test_a_way_is_worth_what_it_tells_although_one_option_always_sounds_truer():
    rng = np.random.default_rng(0)
    given = ["a", "b"] * 20
    scores = [
        {option: 5.0 * (option == "b") + (option == answer) + rng.normal(0, 0.3) for option in "ab"}
        for answer in given
    ]
    patients = [f"p{number}" for number in range(40)]
    centred = check_way(scores, given, patients, BOOTSTRAP, centred=True)
    assert centred.auc.value > 0.95
    assert centred.tells
    assert centred.means["b"] - centred.means["a"] == pytest.approx(5.0, abs=0.3)
    plain = check_way(scores, given, patients, BOOTSTRAP, centred=False)
    assert set(plain.means.values()) == {0.0}
    assert plain.auc.value < 0.8

    noise = [{option: rng.normal() for option in "ab"} for _ in given]
    assert not check_way(noise, given, patients, BOOTSTRAP, centred=True).tells
    assert check_way([{}] * 40, given, patients, BOOTSTRAP, centred=True).auc is None


def test_the_best_way_that_tells_right_from_wrong_is_believed_and_none_where_none_does():
    ways = {
        "exemplars": checked(0.70, 0.45),
        "statement": checked(0.60, 0.51),
        "options": checked(0.80, 0.70),
    }
    assert choose_way(ways, "auto") == "options"
    assert choose_way({**ways, "options": checked(0.8, 0.4)}, "auto") == "statement"
    assert choose_way({"exemplars": ways["exemplars"]}, "auto") is None
    assert choose_way(ways, "exemplars") == "exemplars"


@pytest.mark.parametrize(
    ("scores", "means", "verdict", "suggested"),
    [
        ({"a": 0.0, "b": 2.0}, {}, CHANGE, "b"),
        ({"a": 2.0, "b": 0.0}, {}, KEEP, "a"),
        ({"a": 0.0, "b": 0.2}, {}, UNDECIDED, "b"),
        ({"a": 0.0, "b": 2.0}, {"a": 0.0, "b": 3.0}, KEEP, "a"),
        ({"a": 0.0}, {}, UNDECIDED, "a"),
    ],
)
def test_an_answer_is_kept_changed_or_left_undecided(scores, means, verdict, suggested):
    best, confidence, found = decide(scores, means, "a", 0.6)
    assert (found, best) == (verdict, suggested)
    assert 0.5 <= confidence < 1
    opinion = Opinion(
        study_id="s", split="test", given="a", suspected="b", margin=0.3, suggested=best,
        confidence=confidence, verdict=found,
    )  # fmt: skip
    assert opinion.answer == ("b" if verdict == CHANGE else "a")
