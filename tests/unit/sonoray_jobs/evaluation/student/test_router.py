"""How sure a student must be: as many questions as a budget allows, counted by hand."""

import math

import pytest

from sonoray.metrics import AnswerRecord
from sonoray_jobs.evaluation.student.router import (
    choose_confidence,
    confidence,
    cooled,
    find_routes,
    route,
)


def record(number, is_right, sure=0.9):
    answer = "a" if is_right else "b"
    scores = {answer: math.log(sure), "b" if is_right else "a": math.log(1 - sure)}
    return AnswerRecord(
        study_id=f"s{number}", patient_key=f"p{number}", topic="t", truth="a", answer=answer,
        options=tuple(scores), option_scores=scores,
    )  # fmt: skip


SURE = (0.99, 0.95, 0.9, 0.8, 0.7)
MODEL = [record(number, True) for number in range(5)]


@pytest.mark.parametrize(
    ("student", "budget", "least"),
    [
        ([True, True, True, True, True], 0.0, 0.7),
        ([True, True, False, True, True], 0.0, 0.95),
        ([True, True, False, True, True], 0.2, 0.7),
        ([False, True, True, True, True], 0.0, math.inf),
        ([False, False, True, True, True], 0.2, 0.99),
        ([False, False, True, True, True], 0.4, 0.7),
    ],
)
def test_the_student_gets_as_many_questions_as_the_budget_allows(student, budget, least):
    ours = [
        record(n, right, sure) for n, (right, sure) in enumerate(zip(student, SURE, strict=True))
    ]
    found = choose_confidence(MODEL, ours, budget)
    assert found == pytest.approx(least)
    together, share = route(MODEL, ours, found)
    lost = 1 - sum(each.answer == "a" for each in together) / 5
    assert lost <= budget + 1e-9
    assert share == sum(each >= found - 1e-12 for each in SURE) / 5


def test_a_student_that_is_better_than_its_model_gets_more():
    wrong = [record(number, False) for number in range(5)]
    ours = [record(n, n % 2 == 0, sure) for n, sure in enumerate(SURE)]
    assert choose_confidence(wrong, ours, 0.0) == pytest.approx(0.7)


def test_equally_sure_answers_go_the_same_way():
    ours = [record(0, True, 0.9), record(1, False, 0.9), record(2, True, 0.8)]
    assert choose_confidence(MODEL[:3], ours, 0.0) == math.inf
    assert choose_confidence(MODEL[:3], ours, 0.34) == pytest.approx(0.8)


def test_confidence_is_the_probability_among_the_options():
    assert confidence(record(0, True, 0.8)) == pytest.approx(0.8)


def test_routes_are_what_a_budget_can_buy():
    answers = [True, False, True, True, False]
    ours = [
        record(n, right, sure) for n, (right, sure) in enumerate(zip(answers, SURE, strict=True))
    ]
    found = [(each.least_confidence, each.lost, each.share) for each in find_routes(MODEL, ours)]
    assert found == [
        pytest.approx((0.99, 0.0, 0.2)),
        pytest.approx((0.8, 0.2, 0.8)),  # as much as at 0.95, and 0.9
        pytest.approx((0.7, 0.4, 1.0)),
    ]
    for budget in (0.0, 0.1, 0.2, 0.3, 0.4):
        together, _ = route(MODEL, ours, choose_confidence(MODEL, ours, budget))
        assert 1 - sum(each.answer == "a" for each in together) / 5 <= budget + 1e-9


def test_calibration_makes_a_student_less_sure_of_the_same_answer():
    (found,) = cooled([record(0, True, 0.8)], 2.0)
    assert found.answer == "a"
    assert confidence(found) == pytest.approx(2 / 3)
