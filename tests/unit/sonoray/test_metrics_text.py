import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.metrics import (
    AnswerRecord,
    Bootstrap,
    ClosedMetrics,
    Estimate,
    Table,
    char_f1,
    closed_table,
    text_metrics,
    text_table,
)

BENIGN, MALIGNANT = "良性", "恶性"


# free text


@pytest.mark.parametrize(
    ("truth", "answer", "f1"),
    [
        ("左乳低回声", "左乳低回声", 1.0),
        ("左乳 低回声", "左乳低回声。", 10 / 11),
        ("BI-RADS 4A", "bi-rads ４a", 1.0),
        ("左", "右", 0.0),
        ("aab", "ab", 4 / 5),
        ("", "", 1.0),
        ("左", "", 0.0),
    ],
)
def test_char_f1(truth: str, answer: str, f1: float) -> None:
    assert char_f1(truth, answer) == pytest.approx(f1)


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_char_f1_is_symmetric_and_bounded(left: str, right: str) -> None:
    assert 0 <= char_f1(left, right) <= 1
    assert char_f1(left, right) == char_f1(right, left)
    assert char_f1(left, left) == 1


def test_text_metrics_leave_closed_questions_out() -> None:
    closed = AnswerRecord(
        study_id="c", patient_key="c", topic="side", truth="左", answer="左", options=("左", "右")
    )
    free = [
        AnswerRecord(study_id=str(i), patient_key=str(i), topic="report", truth="无 异常", answer=a)
        for i, a in enumerate(["无异常", "有异常"])
    ]
    [metrics] = text_metrics([closed, *free], bootstrap=Bootstrap(num_resamples=1000))
    assert (metrics.topic, metrics.num_questions, metrics.num_patients) == ("report", 2, 2)
    assert metrics.exact_match.value == 0.5
    assert metrics.char_f1.value == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.to_json()["exact_match"]["value"] == 0.5


# tables


def test_table_lines_up_chinese_and_escapes_markdown() -> None:
    table = Table(header=("a", "b"), rows=(("良性", "1"), ("x|y", "22")))
    assert table.text() == ["a     b", "良性  1", "x|y   22"]
    assert table.markdown() == ["| a | b |", "| --- | --- |", "| 良性 | 1 |", "| x\\|y | 22 |"]


def test_tables_show_value_interval_and_constant_answer() -> None:
    exact = Estimate(value=0.5, low=0.25, high=0.75)
    metrics = ClosedMetrics(
        topic="pathology", num_questions=12, num_patients=7, options=(BENIGN, MALIGNANT),
        positive=MALIGNANT, num_off_option=0, accuracy=exact,
        balanced_accuracy=Estimate(value=0.5, low=None, high=None), auc=None,
        constant_answer=BENIGN, constant_accuracy=exact,
    )  # fmt: skip
    assert closed_table([metrics]).rows == (
        (
            "pathology",
            "12 (7)",
            "0.500 [0.250, 0.750]",
            "0.500",
            "-",
            "0.500 [0.250, 0.750] 良性",
        ),
    )
    free = text_metrics(
        [AnswerRecord(study_id="s", patient_key="p", topic="report", truth="a", answer="a")]
    )
    assert text_table(free).rows == (("report", "1 (1)", "1.000", "1.000"),)
