"""Answers that are doubted: errors planted as asked for, claims read from texts."""

from collections import Counter
from itertools import pairwise

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies
from sonoray_jobs.evaluation.opinion.claims import claimed, read_texts
from sonoray_jobs.evaluation.opinion.labels import (
    check_rate,
    own_answers,
    plant,
)

OPTIONS = ("无回声", "低回声", "等回声", "高回声")


def study_of(number, answer="良性", *, options=("良性", "恶性"), topic="pathology", said=()):
    turns = (
        Turn(question="性质？", answer=answer, task=Task.CLOSED, options=options, topic=topic),
        *(Turn(question="描述。", answer=text, task=Task.REPORT) for text in said),
    )
    image = StudyImage(image_id=f"i{number}", uri="", width=8, height=8)
    return Study(
        study_id=f"s{number}", patient_key=f"p{number}", split="train", dataset="d",
        images=(image,), turns=turns,
    )  # fmt: skip


def planted(kind, rate=0.3, seed=0, num=200):
    truth = {f"s{number}": OPTIONS[number % 4] for number in range(num)}
    options = dict.fromkeys(truth, OPTIONS)
    return truth, plant(truth, options, rate, kind, seed)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_so_many_errors_are_planted_as_were_asked_for(rate):
    truth, given = planted("symmetric", rate)
    assert sum(given[each] != truth[each] for each in truth) == round(rate * 200)


def test_symmetric_errors_are_any_other_option_and_pairwise_ones_the_next():
    truth, given = planted("symmetric", 0.5)
    became = Counter(given[each] for each in truth if truth[each] == OPTIONS[0] != given[each])
    assert set(became) == set(OPTIONS[1:])
    truth, given = planted("pairwise", 0.5)
    following = {*pairwise(OPTIONS), (OPTIONS[-1], OPTIONS[0])}
    wrong = {(truth[each], given[each]) for each in truth if truth[each] != given[each]}
    assert wrong == following


def test_the_same_seed_plants_the_same_errors_whatever_the_order():
    truth, given = planted("symmetric")
    backwards = dict(reversed(truth.items()))
    options = dict.fromkeys(truth, OPTIONS)
    assert plant(backwards, options, 0.3, "symmetric", 0) == given
    assert planted("symmetric", seed=1)[1] != given


@pytest.mark.parametrize("rate", [0, -0.1, 0.51, 2])
def test_a_share_out_of_range_is_refused(rate):
    with pytest.raises(ConfigError, match=r"^--plant .* is out of range: .* at most 0.5"):
        check_rate(rate)
    check_rate(0.5)


def test_a_topic_without_answers_or_with_one_value_is_refused():
    studies = [study_of(0), study_of(1)]
    with pytest.raises(DataError, match="about 'margin'; name one of pathology"):
        own_answers(studies, "margin")
    with pytest.raises(DataError, match="all 2 studies have the answer '良性' to 'pathology'"):
        own_answers(studies, "pathology")
    assert own_answers([*studies, study_of(2, "恶性")], "pathology")["s2"] == "恶性"


def test_texts_claim_what_they_name_and_nothing_where_they_differ(tmp_path):
    texts = {
        "i0": ["低回声结节，考虑恶性。"],
        "i1": ["边界清，考虑良性。", "恶性待排，良性可能。"],
        "i2": ["低回声结节。"],
        "i3": ["良性病变，未见恶性征象。"],
    }
    studies = [study_of(number) for number in range(5)]
    assert claimed(studies, "pathology", texts) == {"s0": "恶性", "s3": "良性"}
    with pytest.raises(DataError, match="no text claims one option of 'pathology'"):
        claimed(studies, "pathology", {"i2": texts["i2"]})
    with pytest.raises(DataError, match="claim nothing about 'texture'"):
        claimed([study_of(0, topic="texture")], "texture", texts)

    write_studies(tmp_path, [study_of(0, said=["考虑恶性。"])])
    assert read_texts(tmp_path) == {"i0": ["良性", "考虑恶性。"]}
