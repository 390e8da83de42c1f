"""Told, plain and another patient's columns, paired."""

import pytest

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.stages import StageOutput
from sonoray_jobs.evaluation.telling.tell_columns import ToldColumns
from sonoray_jobs.evaluation.telling.tell_report import ALL, OTHER, PLAIN, TOLD, judge_told
from sonoray_jobs.evaluation.telling.told_table import told_table


def records(answers, truths):
    return [
        AnswerRecord(
            study_id=f"s{number}", patient_key=f"p{number // 2}", topic="pathology", truth=truth,
            answer=answer, options=("b", "m"),
            option_scores={"b": float(answer == "b"), "m": float(answer == "m")},
        )
        for number, (answer, truth) in enumerate(zip(answers, truths, strict=True))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def judged():
    truths = "bm" * 20
    answers = {
        PLAIN: records("b" * 40, truths),
        TOLD: records("bm" * 16 + "b" * 8, truths),
        OTHER: records("mb" * 20, truths),
    }
    return judge_told(answers, {"pathology": ["b", "b", "m"]}, {}, Bootstrap(num_resamples=1000))


def test_differences_are_paired_and_misses_are_counted(judged):
    own = judged["topics"]["pathology"]
    assert own["constant"] == 0.5
    assert own["ways"][PLAIN]["false_negatives"]["value"] == 1
    gain = own["told_minus_plain"]
    assert gain["accuracy"]["value"] == pytest.approx(0.4)
    assert gain["false_negatives"]["value"] == pytest.approx(-0.8)
    assert gain["auc"]["value"] > 0
    assert own["told_minus_other"]["accuracy"]["value"] == pytest.approx(0.9)
    assert judged["topics"][ALL]["num_questions"] == 40
    assert judged["topics"][ALL]["num_patients"] == 20


def test_the_table_has_a_row_per_topic_and_one_of_all(judged):
    assert [row[0] for row in told_table(judged).rows] == ["pathology", ALL]


def test_without_a_training_question_there_is_no_constant():
    truths = "bm" * 5
    answers = dict.fromkeys((PLAIN, TOLD, OTHER), records("b" * 10, truths))
    values = judge_told(answers, {"side": ["l"]}, {}, Bootstrap(num_resamples=1000))
    assert [own["constant"] for own in values["topics"].values()] == [None, None]
    assert [row[2] for row in told_table(values).rows] == ["-", "-"]


def test_of_a_told_question_the_path_alone_is_printed(tmp_path, judged):
    values = {**judged, "training": "t", "layers": ["values"], "style": "words", "num_silent": 0,
              "leaks": {}}  # fmt: skip
    output = StageOutput(path=tmp_path, manifest={}, reused=False)
    told = ToldColumns(output=output, split="test", values=values)
    assert f"a question as it was told: {tmp_path / 'example.txt'}" in told.lines()
