import pytest

from sonoray.errors import DataError
from sonoray.phantom import PhantomConfig, plan_study
from sonoray.phantom.cohort import study_labels
from sonoray.study.choosing.held_out import (
    check_unnamed,
    is_held_out,
    names_of_held_out,
    without_topics,
)
from sonoray.study.contract import Study, StudyImage, Turn

HOLD_OUT = {"pathology": ("malignant",)}
IMAGE = StudyImage(image_id="i", uri="u", width=1, height=1)


def study(*turns, caption="", **labels):
    image = StudyImage(image_id="i", uri="u", width=1, height=1, labels={"caption": caption})
    turns = tuple(Turn(question=q, answer=a, topic=topic) for topic, q, a in turns)
    return Study(
        study_id="s",
        patient_key="p",
        split="train",
        dataset="d",
        images=(image,),
        turns=turns,
        labels=labels,
    )


BENIGN = study(
    ("report", "写报告。", "低回声结节。"),
    ("pathology", "良性还是恶性？", "良性"),
    pathology="benign",
)
MALIGNANT = study(("pathology", "良性还是恶性？", "恶性"), pathology="malignant")


def test_studies_of_a_value_are_held_out_and_topics_of_its_label_are_not_asked():
    assert is_held_out(MALIGNANT, HOLD_OUT)
    assert not is_held_out(BENIGN, HOLD_OUT)
    assert [turn.topic for turn in without_topics(BENIGN, HOLD_OUT).turns] == ["report"]
    assert without_topics(BENIGN, {}) is BENIGN


def test_a_study_that_has_no_other_turn_is_refused():
    with pytest.raises(DataError, match="turns of pathology alone"):
        without_topics(MALIGNANT, HOLD_OUT)


def test_the_words_for_a_class_are_its_value_and_what_its_studies_answer():
    assert names_of_held_out([BENIGN, MALIGNANT], HOLD_OUT) == {"malignant", "恶性"}


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (study(("report", "写报告。", "恶性结节。")), "report of study 's'"),
        (study(("", "是恶性吗？", "否")), "a turn of study 's'"),
        (study(("report", "r", "A Malignant mass."), caption=""), "report"),
        (study(("report", "r", "a"), caption="恶性病灶。"), "a caption of study 's'"),
    ],
)
def test_a_text_that_names_the_class_is_refused(bad, place):
    with pytest.raises(DataError, match=f"leaves .* out, and a training text names it .{place}"):
        check_unnamed([bad], {"恶性", "malignant"})


def test_part_of_a_latin_word_names_nothing():
    assert check_unnamed([study(("report", "r", "premalignantly"))], {"malignant"}) == 1


def test_the_phantom_names_malignancy_in_nothing_else_than_what_is_held_out():
    config = PhantomConfig(num_patients=300)
    plans = [plan_study(config, patient) for patient in range(300)]
    studies = [
        Study(
            study_id=plan.ref,
            patient_key="p",
            split="train",
            dataset="d",
            images=(IMAGE,),
            turns=plan.turns,
            labels=study_labels(plan),
        )
        for plan in plans
    ]
    left_out = [each for each in studies if is_held_out(each, HOLD_OUT)]
    kept = [without_topics(each, HOLD_OUT) for each in studies if each not in left_out]
    words = names_of_held_out(left_out, HOLD_OUT)
    assert words == {"malignant", "恶性"}
    assert len(left_out) > 80
    assert check_unnamed(kept, words) == len(kept)
    with pytest.raises(DataError, match="恶性"):
        check_unnamed(studies, words)
