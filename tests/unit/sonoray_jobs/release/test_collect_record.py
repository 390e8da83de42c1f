"""Which topics an exported model keeps for others to ask."""

from sonoray.study.contract import Study, Task, Turn
from sonoray_jobs.data.closed_questions import MOST_WORDINGS
from sonoray_jobs.outputs.model_record import TopicRecord
from sonoray_jobs.release.collect_record import closed_topics

OPTIONS = ("有", "无")


def study(number, *turns):
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split="train", dataset="d", images=(),
        turns=turns,
    )  # fmt: skip


def closed(question, answer="无", topic="calcification", options=OPTIONS):
    return Turn(question=question, answer=answer, task=Task.CLOSED, options=options, topic=topic)


def test_a_topic_is_kept_with_its_commonest_wording_and_how_often_each_was_true():
    studies = [
        study(1, closed("有无钙化？"), Turn(question="报告？", answer="良性", topic="report")),
        study(2, closed("钙化？", "有")),
        study(3, closed("钙化？")),
        study(3, closed("有无钙化？", "有"), closed("有无钙化？")),  # the same patient
    ]
    assert closed_topics(studies) == {
        "calcification": TopicRecord(question="钙化？", options=OPTIONS, answers={"无": 3, "有": 2})
    }


def test_what_asks_several_things_or_one_patient_alone_is_not_kept():
    several = [
        study(n, closed(f"问题{n % (MOST_WORDINGS + 1)}？", topic="many")) for n in range(40)
    ]
    options = [study(n, closed("哪个？", topic="free", options=("无", str(n)))) for n in range(4)]
    personal = [study(1, closed("李某的钙化？", topic="own"))] * 3
    nameless = [study(n, closed("钙化？", topic="")) for n in range(3)]
    single = [study(n, closed("钙化？", topic="one", options=("无",))) for n in range(3)]
    assert closed_topics([*several, *options, *personal, *nameless, *single]) == {}


def test_the_order_of_options_is_that_of_training_whatever_later_questions_say():
    studies = [
        study(1, closed("？", options=("有", "无"))),
        study(2, closed("？", options=("无", "有"))),
    ]
    assert closed_topics(studies)["calcification"].options == ("有", "无")
