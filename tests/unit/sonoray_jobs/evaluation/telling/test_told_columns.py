"""Columns in words, in front of a question."""

import pytest

from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.structured.risk_model import RiskModel, Term
from sonoray_jobs.evaluation.telling.told_columns import Teller, records_of_others
from sonoray_jobs.road.risk_config import TellConfig

RECORD = {"age": 64.0, "side": "left"}
MODEL = RiskModel(
    outcome="pathology",
    positive="malignant",
    base=0.0,
    terms={
        "age": Term(is_number=True, weights={"number": 0.5, "unknown": 3.0}, centre=50, spread=14),
        "side": Term(is_number=False, weights={"left": 1.0, "right": -1.0}),
    },
    threshold=0.5,
    penalty=1.0,
    num_studies=10,
    num_positive=5,
)


def study(question="良性还是恶性？"):
    return Study(
        study_id="s", patient_key="p", split="test", dataset="d",
        images=(StudyImage(image_id="i", uri="", width=8, height=8),),
        turns=(
            Turn(question=question, answer="恶性", task=Task.CLOSED, options=("良性", "恶性"),
                 topic="pathology"),
            Turn(question="写报告。", answer="恶性。", task=Task.CONTEXT, topic="report"),
        ),
    )  # fmt: skip


def teller(**settings):
    return Teller(
        settings=TellConfig(**settings),
        is_number={"age": True, "side": False},
        of_topic={"pathology": ["age", "side"]},
        thirds={"age": (40.0, 60.0)},
        model=MODEL,
        topic="pathology",
        positive="恶性",
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "患者资料：age 64，side 左侧。"),
        ({"style": "words"}, "患者资料：年龄高，side 左侧。"),
        ({"most": 1}, "患者资料：age 64。"),
        ({"layers": ("knowledge",)}, "恶性多见于：side 左侧，age 高。"),
        ({"layers": ("risk", "values")}, "风险模型：恶性的概率82%。患者资料：age 64，side 左侧。"),
    ],
)
def test_columns_are_told_in_layers_as_numbers_or_in_words(settings, told):
    names = {"age": "年龄"} if "style" in settings else {}
    found = teller(names=names, values={"side": {"left": "左侧"}}, **settings).tell(study(), RECORD)
    assert found.turns[0].question == f"{told}良性还是恶性？"
    assert found.turns[1] == study().turns[1]  # what is not asked stays as it is


def test_the_site_stays_first_and_english_is_told_in_english():
    found = teller().tell(study("检查部位：乳腺。良性还是恶性？"), RECORD)
    assert found.turns[0].question.startswith("检查部位：乳腺。患者资料：")
    told = teller().tell(study("benign?"), RECORD).turns[0].question
    assert told == "Patient: age 64, side left. benign?"


def test_what_is_not_known_is_not_told():
    assert teller().tell(study(), {}) == study()
    assert teller().tell(study(), {"side": "left"}).turns[0].question == (
        "患者资料：side left。良性还是恶性？"
    )
    other = teller(layers=("values", "risk")).told(
        RECORD, Turn(question="？", answer="", topic="x")
    )
    assert other == ""  # neither its columns nor a risk of another outcome


@pytest.mark.parametrize(
    ("patients", "known", "others"),
    [
        ("abc", "123", "231"),
        ("aabb", "1234", "3311"),  # the next study is the same patient's
        ("aba", "123", "232"),
        ("abcd", "1 3 ", "3311"),  # one with a record, where another patient has one
        ("aab", "12 ", "  1"),
    ],
)
def test_anothers_columns_are_another_patients(patients, known, others):
    records = [{"age": float(each)} if each.strip() else {} for each in known]
    found = records_of_others(patients, records)
    assert [f"{each['age']:.0f}" if each else " " for each in found] == list(others)


def test_one_patient_has_no_other():
    with pytest.raises(DataError, match="all 3 studies are of one patient"):
        records_of_others(["p"] * 3, [RECORD] * 3)
