"""Figures of extracted fields against counts by hand."""

import pytest

from sonoray.metrics import Bootstrap
from sonoray_jobs.evaluation.extraction.extraction_report import (
    Extracted,
    compare,
    extraction_table,
    judge,
    to_json,
)

REPORT = "右侧乳腺见低回声，大小约_2DS_。"  # three fields
BOOTSTRAP = Bootstrap(num_resamples=1000)


def side(*answers: str) -> list[Extracted]:
    return [
        Extracted(study_id=f"s{n}", patient_key=f"p{n}", report=REPORT, answer=answer)
        for n, answer in enumerate(answers)
    ]


PLAIN = side(
    "右侧乳腺=器官;低回声=回声;_3DS_=大小;", "右侧乳腺=器官;高回声=回声;", "", "低回声=大小;"
)
OTHER = side("右侧乳腺=器官;低回声=回声;_2DS_=大小;", "右侧乳腺=器官;", "", "低回声=回声;")


def test_shares_are_over_all_fields():
    found = judge(PLAIN, BOOTSTRAP)
    assert (found["num_reports"], found["num_stated"], found["num_hallucinated"]) == (4, 6, 2)
    assert found["hallucinated"]["value"] == pytest.approx(2 / 6)
    assert found["reports"]["value"] == pytest.approx(2 / 4)
    assert found["precision"]["value"] == pytest.approx(3 / 6)
    assert found["recall"]["value"] == pytest.approx(3 / 12)
    assert found["f1"]["value"] == pytest.approx(2 * 3 / (6 + 12))
    assert found["fields"]["回声"] == {"stated": 2, "right": 1, "hallucinated": 1, "true": 4}


def test_differences_are_contrast_minus_plain_over_the_same_reports():
    found = compare(PLAIN, OTHER, BOOTSTRAP)
    assert found["hallucinated"].value == pytest.approx(-2 / 6)
    assert found["recall"].value == pytest.approx(5 / 12 - 3 / 12)
    assert found["hallucinated"].low <= -2 / 6 <= found["hallucinated"].high
    values = {
        "plain": judge(PLAIN, BOOTSTRAP),
        "contrast": judge(OTHER, BOOTSTRAP),
        "differences": to_json(found),
    }
    rows = extraction_table(values).rows
    assert rows[0][0] == "hallucinated, of stated"
    assert rows[0][3].startswith("-0.3333 [")


def test_without_contrast_there_is_nothing_to_compare():
    rows = extraction_table({"plain": judge(PLAIN, BOOTSTRAP), "contrast": None}).rows
    assert {row[2] for row in rows} == {row[3] for row in rows} == {"-"}


def test_answers_without_a_field_leave_precision_undefined():
    assert judge(side("", ""), BOOTSTRAP)["precision"] is None
