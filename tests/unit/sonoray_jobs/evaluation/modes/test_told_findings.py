"""Findings in words, in front of closed questions: which words, of which questions."""

import pytest

from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.modes.levels import level_of
from sonoray_jobs.evaluation.modes.told_findings import tell

REPORT = Turn(question="请描述。", answer="左乳见低回声结节。", task=Task.REPORT, topic="report")
PATHOLOGY = Turn(
    question="良性还是恶性？", answer="恶性", task=Task.CLOSED, options=("良性", "恶性"),
    topic="pathology",
)  # fmt: skip
ECHO = Turn(
    question="回声如何？", answer="低回声", task=Task.CLOSED, options=("低回声", "无回声"),
    topic="echogenicity",
)  # fmt: skip


def study_of(*turns):
    images = tuple(
        StudyImage(image_id=f"i{at}", uri="", width=8, height=8, labels={"shows_finding": "1"})
        for at in range(3)
    )
    return Study(
        study_id="s", patient_key="p", split="test", dataset="d", images=images, turns=turns
    )


def test_the_report_is_told_and_whether_it_names_the_answer():
    told = tell(study_of(REPORT, PATHOLOGY, ECHO))
    assert [turn.question for turn in told.study.turns] == [
        "超声所见：左乳见低回声结节。良性还是恶性？",
        "超声所见：左乳见低回声结节。回声如何？",
    ]
    assert told.names_truth == (False, True)
    assert len(told.study.images) == 1
    assert not told.study.images[0].labels


def test_without_a_report_the_other_answers_are_told():
    told = tell(study_of(PATHOLOGY, ECHO))
    assert told.study.turns[0].question == "超声所见：回声如何？低回声。良性还是恶性？"
    assert told.study.turns[1].question == "超声所见：良性还是恶性？恶性。回声如何？"
    assert told.names_truth == (False, False)


def test_the_site_stays_first_and_is_said_once():
    cue = "检查部位：乳腺。"
    turns = [
        Turn(question=cue + each.question, answer=each.answer, task=each.task,
             options=each.options, topic=each.topic)
        for each in (PATHOLOGY, ECHO)
    ]  # fmt: skip
    told = tell(study_of(*turns))
    assert told.study.turns[0].question == cue + "超声所见：回声如何？低回声。良性还是恶性？"


def test_english_questions_are_told_in_english():
    turns = [
        Turn(question="Benign?", answer="no", task=Task.CLOSED, options=("yes", "no"), topic="b"),
        Turn(question="Echo?", answer="low", task=Task.CLOSED, options=("low", "none"), topic="e"),
    ]
    told = tell(study_of(*turns))
    assert told.study.turns[0].question == "Findings: Echo?low.  Benign?"


def test_only_the_topics_that_are_wanted_are_asked_and_all_are_told():
    told = tell(study_of(PATHOLOGY, ECHO), ["pathology"])
    assert [turn.topic for turn in told.study.turns] == ["pathology"]
    assert "低回声" in told.study.turns[0].question


def test_a_study_that_says_nothing_else_is_not_asked():
    assert tell(study_of(PATHOLOGY)) is None
    assert tell(study_of(REPORT)) is None
    assert tell(study_of(PATHOLOGY, PATHOLOGY)) is None


@pytest.mark.parametrize(
    ("topic", "others", "level"),
    [
        ("organ", {}, "anatomy"),
        ("pathology", {}, "diagnosis"),
        ("BI-RADS", {}, "diagnosis"),
        ("margin", {}, "lesion"),
        ("margin", {"margin": "diagnosis"}, "diagnosis"),
        ("organ", {"organ": "modality"}, "modality"),
    ],
)
def test_topics_have_levels(topic, others, level):
    assert level_of(topic, others) == level
