"""Reports held against the closed answers of the same model."""

import pytest

from sonoray.metrics.resampling import Bootstrap
from sonoray_jobs.evaluation.consistency import Consistency, measure_consistency

BOOTSTRAP = Bootstrap(num_resamples=1000)


def row(study: str, topic: str, task: str, answer: str) -> dict[str, str]:
    return {
        "study_id": study, "patient_key": f"of {study}", "topic": topic, "task": task,
        "answer": answer,
    }  # fmt: skip


def of_study(study: str, report: str, **answers: str) -> list[dict[str, str]]:
    """The report stands between the answers: their order is of no account."""
    closed = [row(study, topic, "closed", answer) for topic, answer in answers.items()]
    return [*closed[:1], row(study, "report", "report", report), *closed[1:]]


def measured(*studies: list[dict[str, str]]) -> Consistency | None:
    return measure_consistency([each for study in studies for each in study], BOOTSTRAP)


def test_agreement_is_a_share_of_what_the_reports_name() -> None:
    found = measured(
        of_study(
            "a", "左侧低回声结节，BI-RADS 3类，考虑良性。", pathology="良性", birads="BI-RADS 3类"
        ),
        of_study("b", "BI-RADS 4类，病理为导管癌。", pathology="良性", birads="BI-RADS 4类"),
        of_study("c", "BI-RADS 5类。", pathology="恶性", birads="BI-RADS 4类"),
    )
    assert found is not None
    assert (found.num_compared, found.num_silent) == (5, 1)
    assert found.agreement.value == pytest.approx(3 / 5)
    assert {topic: each.value for topic, each in found.topics.items()} == {
        "pathology": 1 / 2,
        "birads": pytest.approx(2 / 3),
    }
    assert found.agreement.low is not None
    assert found.agreement.low < 0.6


@pytest.mark.parametrize(
    ("report", "answer", "agrees"),
    [
        ("内见点状钙化。", "有", True),
        ("内见点状钙化。", "无", False),
        ("未见明显钙化。", "无", True),
        ("未见明显钙化。", "有", False),
        ("A lesion with internal calcifications.", "yes", True),
        ("A smooth margin and no calcifications, about 12 mm.", "yes", False),
        ("A smooth margin and no calcifications, about 12 mm.", "no", True),
    ],
)
def test_a_bare_yes_or_no_means_presence(report: str, answer: str, agrees: bool) -> None:
    found = measured(of_study("a", report, calcification=answer))
    assert found is not None
    assert found.agreement.value == agrees


def test_one_of_several_that_a_report_names_is_enough() -> None:
    found = measured(of_study("a", "良恶性待定。", pathology="恶性"))
    assert found is not None
    assert found.agreement.value == 1


def test_what_cannot_be_read_is_not_compared() -> None:
    unread = [
        of_study("a", "Une lésion bénigne.", pathology="恶性"),  # neither Chinese nor English
        of_study("b", "考虑良性。", pathology="gutartig"),
        of_study("c", "考虑良性。", recommendation="随访"),  # a topic without terms
        of_study("d", "考虑良性。"),
        [row("e", "pathology", "closed", "良性")],  # no report
    ]
    assert measured(*unread) is None
    found = measured(*unread, of_study("f", "考虑良性。", pathology="良性"))
    assert found is not None
    assert (found.num_compared, found.num_silent) == (1, 1)
