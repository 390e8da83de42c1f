"""A dataset's turns and labels as a model's questions."""

import pytest

from sonoray.errors import ConfigError
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.external.mapping import ask_all, map_topics
from sonoray_jobs.outputs.model_record import TopicRecord

PATHOLOGY = TopicRecord(
    question="这个病灶是良性还是恶性？", options=("良性", "恶性"), answers={"良性": 7, "恶性": 3}
)
GRADE = TopicRecord(
    question="分类？", options=("BI-RADS 3类", "BI-RADS 4A类", "BI-RADS 4B类"), answers={}
)


def study(number=0, turns=(), **labels):
    image = StudyImage(image_id=f"i{number}", uri="", width=8, height=8)
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split="train", dataset="other",
        images=(image,), turns=tuple(turns), labels=labels,
    )  # fmt: skip


def turn(answer, topic="pathology", options=("正常", "良性", "恶性")):
    return Turn(question="?", answer=answer, task=Task.CLOSED, options=options, topic=topic)


def asked(studies, names=None, values=None, records=None):
    maps = map_topics(records or {"pathology": PATHOLOGY}, names=names or {}, values=values or {})
    found = ask_all(studies, maps)
    return {each.study_id: each.turns for each in found}, maps["pathology"].account


def test_the_model_is_asked_in_its_own_words_and_the_datasets_turn_is_the_truth():
    turns, account = asked([study(1, [turn("恶性"), turn("脂肪瘤", "histology", ())])])
    assert turns == {
        "s1": (
            Turn(
                question=PATHOLOGY.question,
                answer="恶性",
                task=Task.CLOSED,
                options=("良性", "恶性"),
                topic="pathology",
            ),
        )
    }
    assert (account.asked, account.from_labels, account.lacking) == (1, 0, 0)


@pytest.mark.parametrize(
    ("value", "option"),
    [
        ("恶性", "恶性"),
        ("malignant", "恶性"),
        ("Malignant ", "恶性"),
        ("benign", "良性"),
        ("B", None),
    ],
)
def test_a_label_is_a_truth_where_terms_say_what_its_value_means(value, option):
    turns, account = asked([study(1, pathology=value)])
    assert [turn.answer for each in turns.values() for turn in each] == ([option] if option else [])
    assert (account.asked, account.from_labels) == ((1, 1) if option else (0, 0))
    assert dict(account.unmapped) == ({} if option else {value: 1})


def test_other_names_and_values_are_given():
    studies = [study(1, diagnosis="M"), study(2, diagnosis="b"), study(3, pathology="benign")]
    turns, account = asked(
        studies, {"pathology": "diagnosis"}, {"pathology": {"M": "恶性", "B": "良性"}}
    )
    assert {name: each[0].answer for name, each in turns.items()} == {"s1": "恶性", "s2": "良性"}
    assert (account.name, account.lacking) == ("diagnosis", 1)


def test_what_cannot_be_asked_is_counted_and_left_out():
    studies = [
        study(1, [turn("正常")]),
        study(2, [turn("正常")]),
        study(3, [turn("病例三的说明")]),
        study(4, [turn("良性"), turn("恶性")]),
        study(5, [turn("良性"), turn("良性")]),
        study(6),
    ]
    turns, account = asked(studies)
    assert list(turns) == ["s5"]
    told = account.to_json()
    assert told["unmapped"] == {"正常": 2}  # a value of one study may be a text about it
    assert told["unmapped_alone"] == 1
    assert (told["contradictory"], told["lacking"], told["asked"]) == (1, 1, 1)


@pytest.mark.parametrize("topic", ["calcification", "finding", "anything"])
def test_yes_and_no_are_the_same_in_other_words(topic):
    presence = TopicRecord(question="有吗？", options=("有", "无"), answers={})
    maps = map_topics({topic: presence}, names={}, values={})
    values = ("1", "0", "Yes", "无", "2")
    found = ask_all([study(n, **{topic: value}) for n, value in enumerate(values)], maps)
    assert [each.turns[0].answer for each in found] == ["有", "无", "有", "无"]
    assert dict(maps[topic].account.unmapped) == {"2": 1}


def test_a_value_that_two_options_mean_is_none():
    """BI-RADS 4 without a letter may be 4A or 4B."""
    maps = map_topics({"birads": GRADE}, names={}, values={})
    found = ask_all([study(n, birads=value) for n, value in enumerate(("4a", "3", "4", "5"))], maps)
    answers = {each.study_id: each.turns[0].answer for each in found}
    assert answers == {"s0": "BI-RADS 4A类", "s1": "BI-RADS 3类"}
    assert dict(maps["birads"].account.unmapped) == {"4": 1, "5": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": {"patology": "x"}}, "external.topics names patology.* are pathology"),
        ({"values": {"side": {"l": "左"}}}, "external.values names side"),
        ({"values": {"pathology": {"M": "malignant"}}}, "maps to malignant.* are 良性, 恶性"),
    ],
)
def test_a_wrong_mapping_is_refused_by_name(given, message):
    with pytest.raises(ConfigError, match=message):
        asked([], **given)
