"""What is asked before a report, as the training studies tell."""

from dataclasses import replace

import pytest

from sonoray.phantom.cohort import PhantomConfig, plan_study
from sonoray.study.contract import Study, Task, Turn
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol, conversation, with_protocol
from sonoray_jobs.data.closed_questions import LEAST_PATIENTS, read_protocol

FINDING = Turn(
    question="有病灶吗？", answer="有", task=Task.CLOSED, options=("有", "无"), topic="finding"
)
MARGIN = Turn(
    question="边缘如何？",
    answer="光滑",
    task=Task.CLOSED,
    options=("光滑", "毛刺"),
    topic="margin",
)
REPORT = Turn(question="请写报告。", answer="报告", task=Task.REPORT, topic="report")
NONE = replace(FINDING, answer="无")


def study(number: int, *turns: Turn) -> Study:
    return Study(
        study_id=f"s{number}",
        patient_key=f"p{number}",
        split="train",
        dataset="d",
        images=(),
        turns=turns,
    )


def cohort(with_lesion: int, without: int) -> list[Study]:
    """Studies as the phantom writes them: the margin of a lesion alone is asked for."""
    found = [study(n, REPORT, FINDING, MARGIN) for n in range(with_lesion)]
    return [*found, *(study(with_lesion + n, REPORT, NONE) for n in range(without))]


@pytest.fixture(scope="module")
def protocol() -> ReportProtocol:
    return read_protocol(cohort(10, 10))


def test_a_question_is_not_asked_after_an_answer_that_training_never_goes_on_from(protocol):
    assert [each.topic for each in protocol.questions] == ["finding", "margin"]
    assert [each.not_after for each in protocol.questions] == [{}, {"finding": ("无",)}]
    assert protocol.reports == ("请写报告。",)
    for answer, told in (("有", ["finding", "margin"]), ("无", ["finding"])):
        asked = protocol.told({"finding": answer, "margin": "毛刺"})
        assert [each.topic for each in asked] == told
    assert [each.topic for each in protocol.told({"margin": "毛刺"})] == ["margin"]


@pytest.mark.parametrize(
    ("with_lesion", "without", "excluded"),
    [(10, 3, False), (10, 4, True), (1000, 1, False), (20, 0, False)],
)
def test_what_chance_explains_rules_nothing_out(with_lesion, without, excluded):
    _, margin = read_protocol(cohort(with_lesion, without)).questions
    assert bool(margin.not_after) == excluded


def test_one_study_that_goes_on_keeps_the_question():
    _, margin = read_protocol([*cohort(10, 40), study(99, REPORT, NONE, MARGIN)]).questions
    assert margin.not_after == {}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_phantoms_protocol_is_its_own_order_and_asks_of_no_lesion_where_there_is_none(language):
    config = PhantomConfig(num_patients=120, language=language)
    plans = [plan_study(config, number) for number in range(config.num_patients)]
    found = read_protocol(study(n, *plan.turns) for n, plan in enumerate(plans))
    topics = [each.topic for each in found.questions]
    lesion = ["echogenicity", "margin", "calcification", "pathology", "side"]
    assert topics == ["organ", "finding", *lesion]
    yes, no = found.questions[1].options
    truths = {each.topic: each.options[0] for each in found.questions}
    assert [each.topic for each in found.told(truths | {"finding": yes})] == topics
    assert [each.topic for each in found.told(truths | {"finding": no})] == topics[:2]
    assert len(found.reports) == 2
    assert all(map(found.asks_report, found.reports))
    assert not found.asks_report(found.questions[0].question)


def test_a_report_follows_the_closed_questions_and_nothing_else_does(protocol):
    turns = (REPORT, FINDING, MARGIN)
    told = ("有病灶吗？", "有", "边缘如何？", "光滑", "请写报告。")
    assert conversation(turns, 0, protocol) == told
    assert conversation(turns, 0) == ("请写报告。",)
    assert conversation(turns, 1, protocol) == ("有病灶吗？",)


def test_a_report_follows_what_the_model_says_where_it_is_asked(protocol):
    turns = with_protocol(study(0, NONE, REPORT), protocol).turns
    assert [(turn.task, turn.topic) for turn in turns[2:]] == [(Task.CONTEXT, "margin")]
    said = {"finding": "有", "margin": "毛刺"}
    told = ("有病灶吗？", "有", "边缘如何？", "毛刺", "请写报告。")
    assert conversation(turns, 1, protocol, said) == told
    assert conversation(turns, 1, protocol, said | {"finding": "无"}) == (
        "有病灶吗？",
        "无",
        "请写报告。",
    )


def test_the_longest_history_is_at_least_as_long_as_any(protocol):
    turns = with_protocol(study(0, NONE, REPORT), protocol).turns
    whole, answers = protocol.longest()
    longest = conversation(turns, 1, whole, answers)
    for finding in ("有", "无"):
        for margin in ("光滑", "毛刺"):
            said = conversation(turns, 1, protocol, {"finding": finding, "margin": margin})
            assert sum(map(len, said)) <= sum(map(len, longest))


def test_studies_without_reports_or_with_reports_of_many_words_have_no_protocol():
    assert read_protocol([study(n, FINDING) for n in range(9)]) == NO_PROTOCOL
    many = [study(n, FINDING, replace(REPORT, question=f"报告 {n}")) for n in range(9)]
    assert read_protocol(many) == NO_PROTOCOL
    alone = [study(0, FINDING, REPORT)] * LEAST_PATIENTS  # one patient
    assert read_protocol(alone) == NO_PROTOCOL
    lone = study(0, FINDING)
    assert with_protocol(lone, read_protocol(cohort(9, 9))) is lone
