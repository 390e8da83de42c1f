import pytest

from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies
from sonoray.study.prompt import FOLLOW_UP
from sonoray.study.splits import SplitFractions, assign_split
from sonoray_jobs.evaluation.questions import (
    asked_about,
    asked_studies,
    num_asked,
    training_answers,
)
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.studies import iter_training_studies, training_index


def test_only_the_topics_that_are_named_are_asked():
    image = StudyImage(image_id="i", uri="", width=8, height=8)

    def study(name, *topics):
        turns = tuple(
            Turn(question="?", answer="有", task=Task.OPEN, topic=topic) for topic in topics
        )
        return Study(
            study_id=name, patient_key="p", split="test", dataset="d", images=(image,), turns=turns
        )

    studies = [study("a", "report", "margin"), study("b", "report")]
    known = {"report", "margin"}
    assert asked_about(studies, ("margin",), known) == [study("a", "margin")]
    with pytest.raises(DataError, match=r"\['edge'\] are asked of no study; use .*'margin'"):
        asked_about(studies, ("margin", "edge"), known)
    with pytest.raises(DataError, match=r"none of the studies is asked about \['margin'\]"):
        asked_about(studies[1:], ("margin",), known)


def test_what_a_follow_up_needs_is_told_and_not_asked():
    image = StudyImage(image_id="i", uri="", width=8, height=8)
    topics = ("organ", "finding", FOLLOW_UP, FOLLOW_UP)
    turns = tuple(
        Turn(question=f"问{number}", answer=f"答{number}", topic=topic)
        for number, topic in enumerate(topics)
    )
    study = Study(
        study_id="a", patient_key="p", split="test", dataset="d", images=(image,), turns=turns
    )
    (kept,) = asked_about([study], (FOLLOW_UP,), set(topics))
    assert [turn.question for turn in kept.turns] == ["问1", "问2", "问3"]
    assert [turn.task for turn in kept.turns] == [Task.CONTEXT, Task.OPEN, Task.OPEN]
    assert num_asked([kept, study]) == 2 + 4
    (kept,) = asked_about([study], ("finding",), set(topics))
    assert kept.turns == (turns[1],)


@pytest.fixture
def dataset(tmp_path):
    """Sixty patients with two studies each, split as an ingest splits them."""
    image = StudyImage(image_id="i", uri="", width=8, height=8)
    fractions = SplitFractions(train=0.5, validation=0.25, test=0.25)
    studies = []
    for number in range(120):
        patient = f"patient-{number // 2}"
        split = assign_split(patient, fractions)
        turns = (Turn(question="?", answer=split, task=Task.OPEN, topic="report"),)
        studies.append(
            Study(
                study_id=f"s{number}", patient_key=patient, split=split, dataset="d",
                images=(image,), turns=turns,
            )
        )  # fmt: skip
    write_studies(tmp_path, studies)
    return tmp_path


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_judged_split_has_its_own_patients_and_all_of_them(dataset, split):
    road = RoadConfig()
    asked = asked_studies(dataset, road, split)
    patients = {study.patient_key for study in asked}
    assert {study.split for study in asked} == {split}
    assert len(asked) == 2 * len(patients) > 0
    trained = {study.patient_key for study in iter_training_studies(dataset, road.train)}
    index = training_index(dataset, road.train)
    assert len(index) == 2 * len(trained) > 0
    assert not patients & trained
    others = asked_studies(dataset, road, {"validation": "test", "test": "validation"}[split])
    assert not patients & {study.patient_key for study in others}


def test_the_constant_answer_is_that_of_the_training_split_alone(dataset):
    assert set(training_answers(dataset, RoadConfig())["report"]) == {"train"}


def test_a_split_without_studies_is_named(dataset):
    road = RoadConfig.model_validate({"evaluate": {"only": {"organ": "liver"}}})
    with pytest.raises(DataError, match="has no validation studies of organ liver"):
        asked_studies(dataset, road, "validation")
