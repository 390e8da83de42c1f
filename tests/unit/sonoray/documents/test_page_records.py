"""Pages of the phantom's records: the same for a seed, with answers that follow from the page."""

import pytest

from sonoray.documents.page_records import iter_records
from sonoray.phantom import PhantomConfig, plan_study


@pytest.fixture(scope="module")
def records():
    return list(iter_records(PhantomConfig(), 12, 3))


def test_a_record_is_the_same_whatever_their_number(records):
    assert list(iter_records(PhantomConfig(language="en"), 4, 3)) == records[:4]
    assert next(iter_records(PhantomConfig(), 1, 4))[0] != records[0][0]


def test_records_are_of_patients_whom_no_dataset_of_the_road_has():
    (page, _), *_ = iter_records(PhantomConfig(num_patients=7), 2, 3)
    assert page.record == "report-3-00007"


def test_answers_follow_from_the_page(records):
    for page, questions in records:
        rows = {row.name: row for row in page.measurements}
        outside = 0
        for row in rows.values():
            low, high = map(float, row.normal.split("-")) if row.normal != "-" else (0, 1e9)
            outside += not low <= float(row.value) <= high
            assert (row.mark != "") == (not low <= float(row.value) <= high)
        for asked in questions:
            named = [name for name in rows if name in asked.question]
            if asked.task == "table":
                assert asked.answer in (rows[named[0]].value, rows[named[0]].normal)
            elif "相差" in asked.question:
                one, other = (float(rows[name].value) for name in named)
                assert float(asked.answer) == pytest.approx(abs(one - other), abs=1e-6)
            elif asked.task == "numeric":
                assert asked.answer == f"{outside}项"
            elif asked.task == "entity":
                assert asked.answer in dict(page.header).values()
            assert not asked.options or asked.answer in asked.options
        assert {asked.task for asked in questions} >= {"entity", "table", "numeric", "short"}


def test_findings_are_those_of_the_phantom(records):
    for patient, (page, _) in enumerate(records, PhantomConfig().num_patients):
        plan = plan_study(PhantomConfig(), patient)
        report = next(turn.answer for turn in plan.turns if turn.topic == "report")
        findings, impression = (text for _, text in page.sections)
        assert report == f"{findings}提示：{impression}"
        if plan.lesion is not None:
            assert page.fields["病灶长径"] == f"{plan.lesion.size_mm:.1f}"
