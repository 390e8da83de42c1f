import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.metrics import (
    AnswerRecord,
    Bootstrap,
    ClosedMetrics,
    Estimate,
    Table,
    TextMetrics,
    char_f1,
    closed_table,
    compare_answers,
    text_metrics,
    text_table,
)
from sonoray.metrics.paired import Difference, McNemar, TopicComparison
from sonoray.metrics.tables import (
    clinical_table,
    comparison_table,
    disagreement_table,
    f1_table,
    overlap_table,
    seen_table,
)
from sonoray.metrics.text import HEADLINES, TEXT_METRICS

QUICK = Bootstrap(num_resamples=1000)

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
    [metrics] = text_metrics([closed, *free], training_answers={}, bootstrap=QUICK)
    assert (metrics.topic, metrics.num_questions, metrics.num_patients) == ("report", 2, 2)
    assert metrics.exact_match.value == 0.5
    assert metrics.char_f1.value == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.to_json()["exact_match"]["value"] == 0.5
    assert (metrics.constant, metrics.seen) == ({}, {})
    assert metrics.constant_answer is None
    assert metrics.unseen["exact_match"] == metrics.exact_match
    undefined = ("char_cider", "word_cider")  # the truths do not differ
    known = tuple(name for name in TEXT_METRICS if name not in undefined)
    assert ("exact_match", "char_f1", *metrics.overlap) == known


TRUTHS = ["左叶见低回声结节。", "未见异常。", "右叶见高回声结节。", "左叶见囊肿。"]
ANSWERS = ["左叶见低回声结节。", "未见异常。", "未见异常。", "右叶见囊肿。"]


def answered(answers: list[str]) -> list[AnswerRecord]:
    return [
        AnswerRecord(
            study_id=f"s{i}", patient_key=f"p{i}", topic="report", truth=truth, answer=answer
        )
        for i, (truth, answer) in enumerate(zip(TRUTHS, answers, strict=True))
    ]


def of_report(answers: list[str], training: list[str]) -> TextMetrics:
    [metrics] = text_metrics(
        answered(answers), training_answers={"report": training, "size": ["8"]}, bootstrap=QUICK
    )
    return metrics


def test_the_constant_text_is_scored_like_an_answer() -> None:
    training = ["未见异常。", "未见 异常。", "其他。", "未见异常。"]
    metrics = of_report(ANSWERS, training)
    assert (metrics.constant_answer, metrics.num_training) == ("未见异常。", 4)
    same = of_report(["未见异常。"] * 4, training)
    assert metrics.constant["exact_match"].value == 0.25
    assert metrics.constant == same.constant
    assert metrics.constant["char_f1"] == same.char_f1
    for name in HEADLINES[2:]:
        assert metrics.constant[name] == same.overlap[name]


def test_seen_and_unseen_truths_are_apart() -> None:
    metrics = of_report(ANSWERS, ["未见异常 。", "左叶见囊肿。"])  # blanks do not count
    assert (metrics.num_seen, metrics.seen_share) == (2, 0.5)
    assert metrics.seen["exact_match"].value == 0.5
    assert metrics.unseen["exact_match"].value == 0.5
    assert metrics.seen["char_f1"].value == pytest.approx((1 + 5 / 6) / 2)
    whole = (metrics.seen["char_cider"].value + metrics.unseen["char_cider"].value) / 2
    assert whole == pytest.approx(metrics.overlap["char_cider"].value)
    assert of_report(ANSWERS, TRUTHS).unseen == {}


def test_no_text_of_a_patient_is_in_json_or_repr() -> None:
    metrics = of_report(ANSWERS, TRUTHS[:1])
    for shown in (json.dumps(metrics.to_json(), ensure_ascii=False), repr(metrics)):
        assert "结节" not in shown
    assert metrics.to_json()["seen_share"] == 0.25


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
        macro_f1=Estimate(value=0.4, low=0.2, high=0.6), positive_f1=exact,
        sensitivity=exact, specificity=None, brier=exact, ece=None,
        constant_answer=BENIGN, constant_accuracy=exact,
    )  # fmt: skip
    assert closed_table([metrics]).rows == (
        (
            "pathology",
            "12 (7)",
            "0.500 [0.250, 0.750]",
            "0.500",
            "-",
            "0.400",
            "0.500 [0.250, 0.750] 良性",
        ),
    )
    assert f1_table([metrics]).rows == (
        ("pathology", "0.400 [0.200, 0.600]", "0.500 [0.250, 0.750]"),
    )
    assert clinical_table([metrics]).rows == (
        ("pathology", MALIGNANT, "0.500 [0.250, 0.750]", "-", "0.500 [0.250, 0.750]", "-"),
    )
    free = text_metrics(
        [AnswerRecord(study_id="s", patient_key="p", topic="report", truth="abc", answer="abc")],
        training_answers={"report": ["abc"]},
    )
    assert text_table(free).rows == (
        (
            "report",
            "1 (1)",
            "1.000",
            "1.000",
            *("0.000", "1.000", "-"),
            "1.000, F1 1.000",
            "100%",
        ),
    )
    assert seen_table(free).rows[1:] == (
        ("report", "constant answer", "1", "1.000", "1.000", "0.000", "1.000", "-"),
        ("report", "truth seen in training", "1", "1.000", "1.000", "0.000", "1.000", "-"),
        ("report", "truth not seen", "0", "-", "-", "-", "-", "-"),
    )
    assert overlap_table(free).rows[0] == ("report", "BLEU-1", "1.000", "1.000")
    assert len(overlap_table(free).rows) == 9


def test_a_comparison_shows_differences_with_sign_and_p_value() -> None:
    options = (BENIGN, MALIGNANT)
    first, second = (
        [
            AnswerRecord(
                study_id=str(i), patient_key=str(i), topic="pathology", truth=BENIGN,
                answer=BENIGN if i < right else MALIGNANT, options=options,
            )
            for i in range(40)
        ]
        for right in (30, 4)
    )  # fmt: skip
    found = compare_answers(first, second, bootstrap=QUICK)
    accuracy, *_ = comparison_table(found).rows
    assert accuracy[:5] == ("pathology", "40 (40)", "accuracy", "0.750", "0.100")
    assert accuracy[5].startswith("-0.650 [-0.")
    assert accuracy[6] == "0.002"  # 2 / 1001
    assert disagreement_table(found).rows == (("pathology", "4", "26", "0", "10", "26", "<0.001"),)


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.0212, -0.0004, 0.0428, "+0.021 [-0.000, +0.043]"),
        (0.000213, 0.0001, 0.00033, "+0.00021 [+0.00010, +0.00033]"),
        (-0.0000496, None, None, "-0.000050"),
        (0.00051, 0.0001, 0.001, "+0.001 [+0.000, +0.001]"),
        (0.0, -0.01, 0.01, "+0.000 [-0.010, +0.010]"),
        (2e-17, None, None, "+0.000000000"),
    ],
)
def test_a_difference_that_rounds_to_zero_shows_two_digits_that_count(value, low, high, shown):
    found = Difference(
        first=0.5, second=0.5 + value, value=value, low=low, high=high, p_value=0.0001
    )
    topic = TopicComparison(
        topic="pathology", closed=True, num_questions=8, num_patients=4, both_right=4,
        num_different=0, mcnemar=McNemar(only_first=0, only_second=0, p_value=1.0),
        differences={"accuracy": found},
    )  # fmt: skip
    (row,) = comparison_table([topic]).rows
    assert row[5:] == (shown, "<0.001")
