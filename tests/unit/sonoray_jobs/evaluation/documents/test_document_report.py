"""Figures of pages and answers, small enough to check by hand."""

import pytest

from sonoray.documents.page_folder import DocumentPage
from sonoray.documents.report_page import PageQuestion
from sonoray.metrics import Bootstrap
from sonoray_jobs.evaluation.documents.document_report import (
    Answered,
    capture_of,
    constant_answers,
    judge_answers,
    judge_reading,
)

LINES = (("姓名：李四", "性别：女"),)


def page(record, *, strength=0.5, answer="12"):
    return DocumentPage(
        name=f"{record}-{strength}", data=b"", kind="scan" if strength else "screenshot",
        strength=strength, record=record, lines=LINES, fields={"姓名": "李四", "性别": "女"},
        questions=(PageQuestion(question="多大？", answer=answer, task="table"),),
    )  # fmt: skip


def answered(way, record, answer, *, capture="scan 0.5"):
    return Answered(
        page=record, record=record, capture=capture, task="table", way=way, question="多大？",
        truth="12", answer=answer,
    )  # fmt: skip


def test_reading_is_judged_by_capture():
    pages = [page("a"), page("b"), page("a", strength=0)]
    read = {"a-0.5": list(LINES), "b-0.5": [("姓名：李四性别：女",)], "a-0": [("性别：男",)]}
    found = judge_reading(pages, read, Bootstrap())
    scan = found["scan 0.5"]
    assert scan["num_pages"] == 2
    assert scan["character_error_rate"]["value"] == 0
    assert scan["fields_in_text"]["value"] == 1
    assert scan["fields_in_place"]["value"] == 0.5  # one cell: the name has the rest as its value
    assert found["screenshot"]["character_error_rate"]["value"] == pytest.approx(6 / 9)
    assert capture_of(pages[2]) == "screenshot"


def test_the_constant_answer_is_that_of_other_reports():
    pages = [page("a"), page("a", strength=0), page("b"), page("c", answer="9")]
    found = constant_answers(pages)
    assert found["a", "多大？"] == "12"  # of b and c, and "12" is before "9"
    assert found["c", "多大？"] == "12"
    assert constant_answers([page("a")]) == {("a", "多大？"): ""}


def test_no_answer_of_the_same_report_is_a_constant_one():
    pages = [page("a", answer="9"), page("a", answer="7"), page("a", answer="8")]
    assert constant_answers(pages) == {("a", "多大？"): ""}
    found = constant_answers([*pages, page("b", answer="7"), page("b", answer="12")])
    assert found == {("a", "多大？"): "12", ("b", "多大？"): "7"}


def test_ways_are_paired_over_reports():
    answers = [
        *(answered("lookup", record, "12") for record in "abcd"),
        *(answered("lookup, true text", record, "12 mm") for record in "abcd"),
        *(answered("constant", record, "9") for record in "abcd"),
        *(answered("text", record, "12" if record in "ab" else "x") for record in "abcd"),
    ]
    found = judge_answers(answers, Bootstrap())
    assert found["ways"]["lookup"]["table"]["value"] == 1
    assert found["ways"]["lookup, true text"]["exact match"]["value"] == 0
    assert found["ways"]["text"]["scan 0.5, soft accuracy"]["value"] == 0.5
    assert found["ways"]["lookup"]["entity"] is None
    assert found["differences"]["text minus constant"]["soft accuracy"]["value"] == 0.5
    assert found["differences"]["lookup minus lookup, true text"]["soft accuracy"]["value"] == 0
    assert "image minus constant" not in found["differences"]
    assert found["num_questions"]["table"] == 4
