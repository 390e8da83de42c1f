"""A student judged beside its model, on answers that can be counted by hand."""

import pytest

from llava_ultra.student.student_card import Route
from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray_jobs.evaluation.student.student_report import (
    judge_router,
    judge_student,
    router_line,
    router_table,
    student_table,
    times_of,
)

OPTIONS = ("benign", "malignant")


def records(answers, truths):
    return [
        AnswerRecord(
            study_id=f"s{number}",
            patient_key=f"p{number}",
            topic="pathology",
            truth=OPTIONS[truth],
            answer=OPTIONS[answer],
            options=OPTIONS,
            option_scores={OPTIONS[answer]: -0.1, OPTIONS[1 - answer]: -2.0},
        )
        for number, (answer, truth) in enumerate(zip(answers, truths, strict=True))
    ]


def test_a_student_is_judged_question_by_question():
    truths = [0, 0, 0, 1, 1, 1, 0, 1]
    model = records([0, 0, 1, 1, 1, 0, 0, 1], truths)  # 6 of 8
    student = records([0, 0, 0, 1, 1, 0, 0, 1], truths)  # 7 of 8
    found = judge_student(
        model,
        student,
        {"pathology": ["malignant", "malignant", "benign"]},
        {"pathology": "malignant", "other": "x"},
        Bootstrap(num_resamples=1000),
    )
    own = found["topics"]["pathology"]
    assert own["accuracy"]["first"] == 0.75
    assert own["accuracy"]["second"] == 0.875
    assert own["accuracy"]["value"] == 0.125
    assert own["accuracy"]["low"] <= 0.125 <= own["accuracy"]["high"]
    assert own["num_same"] == 7
    assert own["constant"] == 0.5
    assert own["auc"]["second"] == pytest.approx(0.875)
    assert found["all"]["accuracy"]["value"] == 0.125
    table = student_table(found)
    assert table.rows[0][:5] == ("pathology", "8", "0.500", "0.750", "0.875")
    assert table.rows[0][5].startswith("+0.125 [")
    assert table.rows[-1][0] == "all closed questions"


def test_a_router_is_judged_beside_the_model():
    truths = [0, 1, 0, 1]
    model, student = records([0, 1, 0, 0], truths), records([0, 1, 1, 1], truths)
    bootstrap = Bootstrap(num_resamples=1000)
    routes = [Route(least_confidence=0.5, lost=0.01, share=1.0)]
    found, never = (
        judge_router(model, student, routes, budget, bootstrap) for budget in (0.02, 0.0)
    )
    assert found["share"] == 1
    assert found["accuracy"]["value"] == 0
    assert (never["share"], never["least_confidence"]) == (0, None)
    values = {"chosen_on": "validation", "budget": 0.02, "budgets": [never, found]}
    line = router_line(values)
    assert "the validation split" in line
    assert "answers 100% of the questions, those of which it is sure to 0.50" in line
    assert "answers 0%;" in router_line({**values, "budget": 0.0})
    assert "too few patients" in router_line({**values, "budgets": []})
    table = router_table({"router": values})
    assert [row[:3] for row in table.rows] == [("0", "never", "0.000"), ("0.02", "0.500", "1.000")]


def test_times_are_medians_of_a_study():
    found = times_of([0.010, 0.020, 0.900], [0.0001] * 3, [0.0003, 0.0002, 0.0009])
    assert found["model_ms"] == pytest.approx(20)
    assert found["student_ms"] == pytest.approx(0.4)
    assert found["ratio"] == pytest.approx(0.02)
